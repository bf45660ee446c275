"""Verifies an uploaded run: compares every object at the destination with the manifest."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import ConfigError, UploadError
from tasks.files import parse_record
from tasks.storage.destination import open_store
from tasks.storage.filesystems import TransferSettings
from tasks.storage.manifest import (
    CONFIG,
    MANIFEST,
    SHARD_FOLDERS,
    SUCCESS,
    Manifest,
    ManifestFile,
    SuccessMarker,
    parse_manifest,
)
from tasks.storage.object_store import ObjectStore
from tasks.storage.run_files import problems_of_run, published_files, strange_files

_INCOMPLETE = "The upload is not complete; harvest download --unfinished brings back what it holds"
MOST_MANIFEST_BYTES = 2**28
"""A manifest of a million files is smaller. A larger one is not read into memory."""


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """The result of a verification."""

    url: str
    run_id: str | None
    """None when there is no manifest that can be trusted."""
    files: int
    """How many files the manifest lists."""
    bytes: int
    """The size of all files that the manifest lists."""
    problems: tuple[str, ...]
    """One sentence for each fault."""

    @property
    def ok(self) -> bool:
        return not self.problems


def verify_upload(url: str, transfer: TransferSettings | None = None) -> VerifyReport:
    """Hash every object of the run at ``url`` (``.../RUN_ID``), compare it with the manifest, and report problems.

    Raises ConfigError or UploadError only when the destination cannot be read at all.
    """
    transfer = transfer or TransferSettings()
    store = open_store(url, transfer)
    present = store.listing()
    try:
        manifest, _ = trusted_manifest(store)
    except UploadError as error:
        return VerifyReport(url=store.url, run_id=None, files=0, bytes=0, problems=(str(error),))
    with ThreadPoolExecutor(transfer.workers, thread_name_prefix="verify") as pool:
        found = pool.map(lambda file: _problem(store, file), manifest.files)
        problems = [problem for problem in found if problem]
    listed = {file.path for file in manifest.files}
    problems += [
        f"{key} is not in the manifest"
        for key in sorted(present)
        if key.startswith(SHARD_FOLDERS) and not key.endswith("/") and key not in listed
    ]
    return VerifyReport(
        url=store.url,
        run_id=manifest.run_id,
        files=len(manifest.files),
        bytes=sum(file.bytes for file in manifest.files),
        problems=tuple(problems),
    )


def verify_run(run_dir: Path) -> VerifyReport:
    """Hash every published file of the run in ``run_dir``, compare it with its record, and report problems.

    Raises ConfigError when ``run_dir`` is no run directory.
    """
    if not (run_dir / CONFIG).exists():
        raise ConfigError(f"{run_dir} is not a run directory: it has no {CONFIG}. Give RUNS_DIR/RUN_ID")
    names = published_files(run_dir)
    strange = [f"{name} is not a file of this run. Move it away" for name in strange_files(run_dir)]
    return VerifyReport(
        url=str(run_dir),
        run_id=run_dir.resolve().name,
        files=len(names),
        bytes=sum((run_dir / name).stat().st_size for name in names if (run_dir / name).is_file()),
        problems=(*problems_of_run(run_dir), *strange),
    )


def trusted_manifest(store: ObjectStore) -> tuple[Manifest, bytes]:
    """Return the manifest whose hash is in ``_SUCCESS``, and its bytes. Raises UploadError when there is none."""
    success = read_small(store, SUCCESS)
    if success is None:
        runs = sorted(
            key.split("/")[0] for key in store.listing() if key.count("/") == 1 and key.endswith(f"/{SUCCESS}")
        )
        hint = f"It holds the runs {', '.join(runs)}: add one to the URL" if runs else _INCOMPLETE
        raise UploadError(f"{store.url} has no {SUCCESS}. {hint}")
    body = read_small(store, MANIFEST)
    if body is None:
        raise UploadError(f"{store.url} has {SUCCESS} but no {MANIFEST}. Upload the run again")
    try:
        if hashlib.sha256(body).hexdigest() != parse_record(success, SuccessMarker).manifest_sha256:
            raise UploadError(f"{MANIFEST} at {store.url} has another hash than {SUCCESS} says. Upload the run again")
        return parse_manifest(body), body
    except ValueError as error:
        raise UploadError(f"{SUCCESS} or {MANIFEST} at {store.url} is damaged: {error}. Upload the run again") from None


def read_small(store: ObjectStore, key: str) -> bytes | None:
    """Return the bytes of a small file of a run, or None. Raises UploadError for one that no run has."""
    stored = store.head(key)
    if stored is None:
        return None
    if stored.size > MOST_MANIFEST_BYTES:
        raise UploadError(f"{key} at {store.url} has {stored.size:,} bytes; at most {MOST_MANIFEST_BYTES:,} are read")
    return b"".join(store.read_chunks(key, stored.size))


def _problem(store: ObjectStore, file: ManifestFile) -> str | None:
    stored = store.head(file.path)
    if stored is None:
        return f"{file.path} is missing"
    if stored.size != file.bytes:
        return f"{file.path} has {stored.size} bytes, the manifest says {file.bytes}"
    try:
        found = store.sha256(file.path, stored.size)
    except UploadError as error:
        return str(error)
    return None if found == file.sha256 else f"{file.path} has sha256 {found}, the manifest says {file.sha256}"
