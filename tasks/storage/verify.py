"""Checking what a destination holds against its manifest."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tasks.errors import UploadError
from tasks.storage.destination import open_store
from tasks.storage.filesystems import TransferSettings
from tasks.storage.manifest import MANIFEST, SHARD_FOLDERS, SUCCESS, Manifest, ManifestFile, parse_manifest
from tasks.storage.object_store import ObjectStore


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """The result of a check. ``files`` and ``bytes`` are what the manifest lists."""

    url: str
    run_id: str | None
    files: int
    bytes: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems


def verify_upload(url: str, transfer: TransferSettings | None = None) -> VerifyReport:
    """Hash every object of the run at ``url`` (``.../RUN_ID``) and compare it with the manifest.

    Whatever is wrong is listed; raises ConfigError or UploadError only when the destination cannot be read at all.
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


def trusted_manifest(store: ObjectStore) -> tuple[Manifest, bytes]:
    """The manifest that ``_SUCCESS`` vouches for, and its bytes. Raises UploadError when there is none."""
    success = store.read(SUCCESS)
    if success is None:
        runs = sorted(
            key.split("/")[0] for key in store.listing() if key.count("/") == 1 and key.endswith(f"/{SUCCESS}")
        )
        hint = f"It holds the runs {', '.join(runs)}: add one to the URL" if runs else "The upload is not complete"
        raise UploadError(f"{store.url} has no {SUCCESS}. {hint}")
    body = store.read(MANIFEST)
    if body is None:
        raise UploadError(f"{store.url} has {SUCCESS} but no {MANIFEST}. Upload the run again")
    try:
        promised = json.loads(success)["manifest_sha256"]
        if hashlib.sha256(body).hexdigest() != promised:
            raise UploadError(f"{MANIFEST} at {store.url} is not the one that {SUCCESS} vouches for. Upload it again")
        return parse_manifest(body), body
    except (ValueError, KeyError, TypeError) as error:
        raise UploadError(f"{SUCCESS} or {MANIFEST} at {store.url} is damaged: {error}. Upload the run again") from None


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
