"""Uploads a run, file by file, so that a reader of the destination knows whether the run is complete.

The order of the files ensures that. ``config.json`` goes first and reserves ``URL/RUN_ID`` for the run's fingerprint.
Every other file follows as soon as it is final, and is verified after it was sent. ``manifest.json`` follows when the
destination holds every file. ``_SUCCESS`` with the manifest's hash is last, and readers trust nothing else. It is
deleted before a later change. An upload needs no conditional writes and touches nothing outside its URL.
"""

import contextlib
import hashlib
import json
import logging
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self

from tasks.errors import ConfigError, UploadError
from tasks.locks import reservation_lock, upload_lock, what_finishes
from tasks.storage.destination import CHECK_PREFIX, open_store
from tasks.storage.file_upload import FileUploader, Verify
from tasks.storage.filesystems import TransferSettings, check_url
from tasks.storage.manifest import CONFIG, MANIFEST, SHARD_FOLDERS, SUCCESS, ManifestFile, SuccessMarker, is_run_name
from tasks.storage.object_store import StoredObject
from tasks.storage.run_files import (
    first_wave,
    is_published_file,
    missing_files,
    parse_fingerprint,
    published_files,
    run_fingerprint,
    write_manifest,
)
from tasks.storage.upload_record import UploadedFile, UploadRecord, read_upload_record, update_upload_record

logger = logging.getLogger(__name__)

_ROUNDS = 3


class RunUploader:
    """Uploads files of one run to ``URL/RUN_ID``. Create it in the task that uses it.

    Several threads may call ``upload_files``, and several uploaders may work on one run. ``finish`` waits until no
    other upload of the run is in progress, and other uploads wait for it. Used as a context manager, it aborts its
    open multipart uploads when SIGTERM or an interrupt ends the block.
    """

    def __init__(
        self, run_dir: Path, url: str, *, verify: Verify = "sample", transfer: TransferSettings | None = None
    ) -> None:
        self.run_dir = run_dir.resolve()
        self.run_id = self.run_dir.name
        if not is_run_name(self.run_id):
            why = "it is too long, or has control characters or a backslash. Rename the directory"
            raise ConfigError(f"{self.run_dir} has a name that a download would refuse: {why}")
        self.fingerprint = run_fingerprint(self.run_dir)
        self._verify = verify
        self._transfer = transfer or TransferSettings()
        check_url(url)
        destination = f"{url.rstrip('/')}/{self.run_id}"
        self._store = open_store(destination, self._transfer, self.run_dir / "state", for_writing=True)
        self.url = self._store.url
        self._lock = threading.Lock()
        self._reserving = threading.Lock()
        self._listed: Mapping[str, StoredObject] | None = None
        """What the destination held when it was last listed; None before it was reserved."""
        self._uploaded: dict[str, UploadedFile] = {}
        self._recorded: Mapping[str, UploadedFile] = {}
        """What earlier and parallel uploaders recorded."""
        self._success_deleted = False
        self._files = FileUploader(
            self._store, self.run_dir, self.fingerprint, verify=verify, before_change=self._delete_success
        )
        self._previous_handler: Any = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
            self._previous_handler = signal.signal(signal.SIGTERM, _exit_on_sigterm)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not isinstance(error, Exception):
            self.abort()
        if self._previous_handler is not None:
            signal.signal(signal.SIGTERM, self._previous_handler)

    def upload_files(self, paths: Iterable[str]) -> dict[str, UploadedFile]:
        """Upload these files, given relative to the run directory, unless the destination holds them already.

        Raises ConfigError when the destination holds a different run, UploadError when a file cannot be stored.
        """
        names = list(dict.fromkeys(paths))
        if unpublished := [name for name in names if not is_published_file(self.run_dir, name)]:
            raise ConfigError(f"{unpublished[0]!r} is not a published file of {self.run_dir}")
        with self._lock_uploads(exclusive=False):
            return self._upload_all(names)

    def finish(self) -> UploadRecord:
        """Upload what is missing, then the manifest, then ``_SUCCESS``. The record is also in the run directory.

        Raises ConfigError when the run itself is not finished.
        """
        if missing := missing_files(self.run_dir):
            raise ConfigError(
                f"{self.run_dir} is not a finished run: {missing[0]} is missing ({len(missing)} files in all). "
                f"{what_finishes(self.run_dir)}"
            )
        with self._lock_uploads(exclusive=True):
            return self._finish()

    def abort(self) -> None:
        """Stop all transfers of this uploader and abort its open multipart uploads; finished files stay."""
        self._store.stop()

    @contextlib.contextmanager
    def _lock_uploads(self, *, exclusive: bool) -> Iterator[None]:
        # without the lock, files could change after the _SUCCESS of an upload that finishes
        with upload_lock(self.run_dir / "state", exclusive=exclusive, wait=self._store.wait):
            # another upload may have finished since
            self._success_deleted = False
            yield

    def _upload_all(self, names: Iterable[str]) -> dict[str, UploadedFile]:
        self._reserve_destination()
        done: dict[str, UploadedFile] = {}
        pool = ThreadPoolExecutor(self._transfer.workers, thread_name_prefix="upload")
        futures = {pool.submit(self._upload, name): name for name in names}
        try:
            for future in as_completed(futures):
                done[futures[future]] = future.result()
        except BaseException as error:
            if not isinstance(error, Exception):
                self.abort()
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            pool.shutdown()
            if done:
                self._save_record(done)
        return done

    def _finish(self) -> UploadRecord:
        self._reserve_destination()
        there = {*(self._listed or {}), *self._uploaded}
        self._upload_all([name for name in published_files(self.run_dir) if name not in there])
        for _ in range(_ROUNDS):
            manifest = write_manifest(self.run_dir)
            listed = self._store.listing()
            self._load_record()
            known = {**self._recorded, **self._uploaded}
            pending = [file.path for file in manifest.files if not _is_uploaded(file, known, listed)]
            if not pending:
                break
            self._listed = listed
            self._upload_all(pending)
        else:
            raise UploadError(f"{pending[0]} keeps changing, here or at {self.url}. Upload when nothing else writes")
        own = {file.path for file in manifest.files}
        self._refuse_foreign_shards(listed, own | self._delete_lost_waves(listed, own))
        body = (self.run_dir / MANIFEST).read_bytes()
        success = SuccessMarker(run_id=self.run_id, manifest_sha256=hashlib.sha256(body).hexdigest())
        self._put_manifest_and_success(body, json.dumps(asdict(success)).encode() + b"\n", listed)
        files = {file.path: known[file.path] for file in manifest.files}
        return self._save_record(files, complete=True, manifest_sha256=success.manifest_sha256)

    def _reserve_destination(self) -> None:
        """Upload config.json to an empty destination. Raises ConfigError when it holds anything but this run."""
        with self._reserving:
            if self._listed is not None:
                return
            self._load_record()
            listed = self._list_destination()
            if CONFIG in listed:
                self._refuse_another_run(listed)
            else:
                # other shards of this run may be uploaded now, and one of these uploads sends it
                with reservation_lock(self.run_dir / "state", wait=self._store.wait):
                    listed = self._list_destination()
                    self._refuse_another_run(listed)
                    if CONFIG not in listed:
                        self._save_record({CONFIG: self._upload(CONFIG)})
            if aborted := self._store.abort_orphaned_uploads():
                logger.info("aborted %d multipart uploads that an earlier upload of this run left open", aborted)
            self._listed = listed

    def _list_destination(self) -> dict[str, StoredObject]:
        return {key: stored for key, stored in self._store.listing().items() if not key.startswith(CHECK_PREFIX)}

    def _refuse_another_run(self, listed: Mapping[str, StoredObject]) -> None:
        config = self._store.read(CONFIG) if CONFIG in listed else None
        if config is None and listed:
            raise ConfigError(
                f"{self.url} already holds {len(listed)} files (such as {min(listed)}) but no {CONFIG}: they are "
                "not of this run. Choose another URL"
            )
        if config is not None and (other := _fingerprint_or_unreadable(config)) != self.fingerprint:
            raise ConfigError(
                f"{self.url} holds a different run: its fingerprint is {other}, this run's is {self.fingerprint}. "
                "Choose another URL; nothing was changed there"
            )

    def _upload(self, name: str) -> UploadedFile:
        known = self._uploaded.get(name) or self._recorded.get(name)
        uploaded = self._files.upload(name, listed=name in (self._listed or {}), known=known)
        with self._lock:
            self._uploaded[name] = uploaded
        return uploaded

    def _load_record(self) -> None:
        """Read what earlier and parallel uploaders recorded, unless every file is to be read back."""
        record = read_upload_record(self.run_dir) if self._verify == "sample" else None
        if record and (record.url, record.fingerprint) == (self.url, self.fingerprint):
            self._recorded = record.files

    def _delete_success(self) -> None:
        """Delete ``_SUCCESS`` before anything changes at the destination, so that readers do not trust a mixture."""
        with self._lock:
            if not self._success_deleted and self._store.head(SUCCESS) is not None:
                self._save_record({})
                self._store.delete(SUCCESS)
            self._success_deleted = True

    def _delete_lost_waves(self, listed: Mapping[str, StoredObject], own: set[str]) -> set[str]:
        """Delete the waves of shards that were made again since, and have fewer now. Return their names."""
        lost = {key for key in listed if key not in own and first_wave(key) != key and first_wave(key) in own}
        for key in lost:
            self._delete_success()
            self._store.delete(key)
        return lost

    def _refuse_foreign_shards(self, listed: Mapping[str, StoredObject], own: set[str]) -> None:
        others = (key for key in listed if key not in own and not key.endswith("/"))
        if foreign := sorted(key for key in others if key.startswith(SHARD_FOLDERS)):
            raise UploadError(
                f"{self.url} holds {len(foreign)} shard files that are not of this run, such as {foreign[0]}. "
                "Remove them or choose another URL; _SUCCESS was not written"
            )

    def _put_manifest_and_success(self, manifest: bytes, success: bytes, listed: Mapping[str, StoredObject]) -> None:
        if SUCCESS in listed and (self._store.read(SUCCESS), self._store.read(MANIFEST)) == (success, manifest):
            return
        self._delete_success()
        for key, body in ((MANIFEST, manifest), (SUCCESS, success)):
            for _ in range(_ROUNDS):
                self._store.put_bytes(key, body, self.fingerprint)
                if self._store.read(key) == body:
                    break
                self._store.delete(key)
            else:
                raise UploadError(
                    f"{self.url} returns other bytes than were written as {key}; the upload is incomplete"
                )

    def _save_record(
        self, files: Mapping[str, UploadedFile], *, complete: bool = False, manifest_sha256: str | None = None
    ) -> UploadRecord:
        record = UploadRecord(
            url=self.url,
            run_id=self.run_id,
            fingerprint=self.fingerprint,
            complete=complete,
            manifest_sha256=manifest_sha256,
            files=files,
            files_sent=self._files.files_sent,
            bytes_sent=self._files.bytes_sent,
        )
        return update_upload_record(self.run_dir, record)


def upload_run(
    run_dir: Path, url: str, *, verify: Verify = "sample", transfer: TransferSettings | None = None
) -> UploadRecord:
    """Upload a finished run to ``URL/RUN_ID``. Sends only what is missing there. Raises as ``RunUploader`` does."""
    with RunUploader(run_dir, url, verify=verify, transfer=transfer) as uploader:
        return uploader.finish()


def _is_uploaded(file: ManifestFile, known: Mapping[str, UploadedFile], listed: Mapping[str, StoredObject]) -> bool:
    uploaded, stored = known.get(file.path), listed.get(file.path)
    if uploaded is None or stored is None:
        return False
    return (uploaded.sha256, uploaded.size, uploaded.etag) == (file.sha256, stored.size, stored.etag)


def _fingerprint_or_unreadable(config: bytes) -> str:
    try:
        return parse_fingerprint(config)
    except ValueError:
        return "unreadable"


def _exit_on_sigterm(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
