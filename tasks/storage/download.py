"""Downloads an uploaded run and verifies each file. An interrupted download can be resumed.

It trusts only the manifest whose hash is in ``_SUCCESS``.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from tasks.errors import ConfigError, UploadError
from tasks.files import atomic_path, publish_json, remove_stale_temporaries, sha256_file, try_read_record
from tasks.storage.destination import open_store
from tasks.storage.filesystems import TransferSettings
from tasks.storage.manifest import CONFIG, MANIFEST, Manifest, ManifestFile
from tasks.storage.object_store import ObjectStore
from tasks.storage.published import forget_published, manifest_records
from tasks.storage.run_files import published_files, strange_files
from tasks.storage.verify import trusted_manifest
from tasks.user_paths import check_directory

_SOURCE = "state/download.json"
_TRIES = 3


@dataclass(frozen=True, kw_only=True)
class _Source:
    """The origin of a directory's files."""

    url: str
    unfinished: bool = False
    """Whether it is an upload that was not finished."""


class DamagedCopy(UploadError):
    """The downloaded bytes are not those of the manifest."""


def download_run(url: str, directory: Path, transfer: TransferSettings | None = None) -> Path:
    """Download the run at ``url`` (``.../RUN_ID``) to ``directory/RUN_ID`` and return that path.

    Keeps files that are already there with the right bytes. Writes the manifest last, so that a directory with a
    manifest is complete. Raises UploadError when the upload is incomplete or damaged, ConfigError when the directory
    holds other files that were not downloaded from ``url``.
    """
    transfer = transfer or TransferSettings()
    store = open_store(url, transfer)
    manifest, body = trusted_manifest(store)
    target = directory / manifest.run_id
    wanted = [file for file in manifest.files if not _is_here(target, file)]
    _refuse_other_run(target, store.url, manifest, wanted)
    _mark(target, _Source(url=store.url))
    remove_stale_temporaries(target)
    if wanted:
        # files are missing or old, and an incomplete directory must not have a manifest
        (target / MANIFEST).unlink(missing_ok=True)
    with ThreadPoolExecutor(transfer.workers, thread_name_prefix="download") as pool:
        futures = [pool.submit(fetch_file, store, file, target) for file in wanted]
        try:
            for future in futures:
                future.result()
        except BaseException:
            store.stop()
            pool.shutdown(cancel_futures=True)
            raise
    with atomic_path(target / MANIFEST) as temporary:
        temporary.write_bytes(body)
    return target


def _is_here(target: Path, file: ManifestFile) -> bool:
    path = target / file.path
    return path.is_file() and path.stat().st_size == file.bytes and sha256_file(path) == file.sha256


def _refuse_other_run(target: Path, url: str, manifest: Manifest, wanted: list[ManifestFile]) -> None:
    _refuse_links(target, [file.path for file in manifest.files])
    if _is_from(target, url):
        return
    others = {*published_files(target), *strange_files(target)} - {file.path for file in manifest.files}
    clashes = sorted([*(file.path for file in wanted if (target / file.path).exists()), *others])
    if clashes:
        raise ConfigError(
            f"{target} is not a download of {url}, and its {clashes[0]} differs. Choose another directory"
        )


def _refuse_links(target: Path, names: Sequence[str]) -> None:
    for folder in {(target / name).parent for name in (_SOURCE, *names)}:
        if not folder.resolve().is_relative_to(target.resolve()):
            raise ConfigError(f"{folder} is a link out of {target}. Choose another directory")


def _is_from(target: Path, url: str) -> bool:
    source = try_read_record(target / _SOURCE, _Source)
    return source is not None and source.url == url


def _mark(target: Path, source: _Source) -> None:
    check_directory(target, "the directory")
    publish_json(asdict(source), target / _SOURCE)


def mark_download(target: Path, url: str, names: Sequence[str]) -> None:
    """Begin a download of files called ``names`` of an unfinished upload to ``target``, or go on with one from ``url``.

    Raises ConfigError when ``target`` is there and not such a download.
    """
    _refuse_links(target, names)
    if not _is_from(target, url) and (target / CONFIG).exists():
        raise ConfigError(f"{target} is there already. harvest run goes on with it; or choose another directory")
    _mark(target, _Source(url=url, unfinished=True))


def remove_mark(target: Path) -> None:
    """End a download that leaves a run without a manifest."""
    # the same command may have ended at the same moment
    (target / _SOURCE).unlink(missing_ok=True)


def refuse_unfinished_download(run_dir: Path) -> None:
    """Raise ConfigError for a downloaded run of which files may be missing: without a manifest none is on record."""
    source = try_read_record(run_dir / _SOURCE, _Source)
    if source is not None and not manifest_records(run_dir):
        more = " --unfinished" if source.unfinished else ""
        raise ConfigError(
            f"{run_dir} is a download that was not finished, or has lost its {MANIFEST}. Give its command again, "
            f"harvest download {source.url} {run_dir.parent}{more}, or remove the directory"
        )


def fetch_file(store: ObjectStore, file: ManifestFile, target: Path) -> None:
    """Download one file below ``target``. Raises DamagedCopy when its bytes are others each time, or UploadError."""
    for attempt in range(1, _TRIES + 1):
        try:
            with atomic_path(target / file.path) as temporary:
                _copy(store, file, temporary)
                forget_published(target / file.path)  # of a file that was made here; the manifest has the record now
            return
        except DamagedCopy:
            # another try helps when the network damaged the bytes, not when the store did
            if attempt == _TRIES:
                raise


def _copy(store: ObjectStore, file: ManifestFile, temporary: Path) -> None:
    digest = hashlib.sha256()
    with temporary.open("wb") as copy:
        for data in store.read_chunks(file.path, file.bytes):
            digest.update(data)
            copy.write(data)
    if digest.hexdigest() != file.sha256:
        raise DamagedCopy(
            f"{file.path} at {store.url} is damaged: its sha256 is {digest.hexdigest()}, the manifest says "
            f"{file.sha256}. Upload the run again"
        )
