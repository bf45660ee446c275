"""Upload of a run, file by file, so that readers of the destination see all of it or know that they do not.

The order is the protocol. ``config.json`` goes first and claims ``URL/RUN_ID`` for the run's fingerprint. Every other
file follows as soon as it is final, each checked after it was sent. ``manifest.json`` comes when the destination holds
every file, and last ``_SUCCESS`` with the manifest's hash: the only thing that a reader trusts. A later change takes
``_SUCCESS`` away first. Nothing depends on conditional writes, and nothing outside ``URL/RUN_ID`` is touched.
"""

import contextlib
import hashlib
import json
import logging
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self

from tasks.errors import ConfigError, UploadError
from tasks.locks import upload_lock
from tasks.storage.destination import CHECK_PREFIX, open_store
from tasks.storage.file_upload import FileUploader, Verify
from tasks.storage.filesystems import TransferSettings
from tasks.storage.manifest import (
    CONFIG,
    MANIFEST,
    SHARD_FOLDERS,
    SUCCESS,
    ManifestFile,
    missing_shards,
    published_files,
    run_fingerprint,
    write_manifest,
)
from tasks.storage.object_store import StoredObject
from tasks.storage.upload_record import UploadedFile, UploadRecord, read_upload_record, update_upload_record

logger = logging.getLogger(__name__)

_ROUNDS = 3


class RunUploader:
    """Uploads files of one run to ``URL/RUN_ID``; create it in the task that uses it.

    ``upload_files`` may be called from several threads, and several uploaders may work on one run at once; ``finish``
    waits until no other does, and others wait for it. As a
    context manager it takes back half-done uploads when it is left by SIGTERM or an interrupt.
    """

    def __init__(
        self, run_dir: Path, url: str, *, verify: Verify = "sample", transfer: TransferSettings | None = None
    ) -> None:
        self.run_dir = run_dir.resolve()
        self.run_id = self.run_dir.name
        self.fingerprint = run_fingerprint(self.run_dir)
        self._verify = verify
        self._transfer = transfer or TransferSettings()
        self._store = open_store(f"{url.rstrip('/')}/{self.run_id}", self._transfer, self.run_dir / "state")
        self.url = self._store.url
        self._lock = threading.Lock()
        self._present: Mapping[str, StoredObject] | None = None
        self._retracted = False
        self._settled: dict[str, UploadedFile] = {}
        self._earlier: Mapping[str, UploadedFile] = {}
        self._sender = FileUploader(
            self._store, self.run_dir, self.fingerprint, verify=verify, before_change=self._retract
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
        """Bring these files of the run, given relative to it, to the destination; skip what is already there.

        Raises ConfigError when the destination belongs to a different run, UploadError when a file cannot be stored.
        """
        names = list(dict.fromkeys(paths))
        if strangers := sorted({*names} - {*published_files(self.run_dir)}):
            raise ConfigError(f"{strangers[0]!r} is not a published file of {self.run_dir}")
        with self._lock_uploads(exclusive=False):
            return self._bring(names)

    def _bring(self, names: Iterable[str]) -> dict[str, UploadedFile]:
        self._claim()
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
                self._record(done)
        return done

    def finish(self) -> UploadRecord:
        """Upload what is missing, then the manifest, then ``_SUCCESS``. The receipt is also in the run directory.

        Raises ConfigError when the run itself is not finished.
        """
        if missing := missing_shards(self.run_dir):
            raise ConfigError(
                f"{self.run_dir} is not a finished run: {missing[0]} is missing ({len(missing)} files in all). "
                "Run the command that made it again; it resumes"
            )
        with self._lock_uploads(exclusive=True):
            return self._finish()

    def _finish(self) -> UploadRecord:
        self._claim()
        there = {*(self._present or {}), *self._settled}
        self._bring([name for name in published_files(self.run_dir) if name not in there])
        for _ in range(_ROUNDS):
            manifest = write_manifest(self.run_dir, sha256_of=self._sender.sha256_of)
            present = self._store.listing()
            self._load_earlier()
            known = {**self._earlier, **self._settled}
            pending = [file.path for file in manifest.files if not _is_settled(file, known, present)]
            if not pending:
                break
            self._present = present
            self._bring(pending)
        else:
            raise UploadError(f"{pending[0]} keeps changing, here or at {self.url}. Upload when nothing else writes")
        self._refuse_strangers(present, {file.path for file in manifest.files})
        body = (self.run_dir / MANIFEST).read_bytes()
        manifest_sha256 = hashlib.sha256(body).hexdigest()
        self._publish(body, _success(self.run_id, manifest_sha256), present)
        files = {file.path: known[file.path] for file in manifest.files}
        return self._record(files, complete=True, manifest_sha256=manifest_sha256)

    def abort(self) -> None:
        """Stop all transfers of this uploader and abort its open multipart uploads; finished files stay."""
        self._store.stop()

    @contextlib.contextmanager
    def _lock_uploads(self, *, exclusive: bool) -> Iterator[None]:
        # beside an upload that is being finished, files would change under its _SUCCESS
        with upload_lock(self.run_dir / "state", exclusive=exclusive, wait=self._store.wait):
            # others may have finished one since
            self._retracted = False
            yield

    def _claim(self) -> None:
        """Take the destination for this run, or refuse: nothing is sent to a place that is not this run's."""
        with self._lock:
            if self._present is not None:
                return
            self._load_earlier()
            present = {key: value for key, value in self._store.listing().items() if not key.startswith(CHECK_PREFIX)}
            theirs = self._store.read(CONFIG) if CONFIG in present else None
            if theirs is None and present:
                raise ConfigError(
                    f"{self.url} already holds {len(present)} files (such as {min(present)}) but no {CONFIG}: they are "
                    "not of this run. Choose another URL"
                )
            if theirs is not None and (other := _fingerprint(theirs)) != self.fingerprint:
                raise ConfigError(
                    f"{self.url} holds a different run: its fingerprint is {other}, this run's is {self.fingerprint}. "
                    "Choose another URL; nothing was changed there"
                )
            if aborted := self._store.abort_orphaned_uploads():
                logger.info("aborted %d half-done uploads that an earlier upload of this run left", aborted)
            self._present = present
        if theirs is None:
            self._record({CONFIG: self._upload(CONFIG)})

    def _upload(self, name: str) -> UploadedFile:
        known = self._settled.get(name) or self._earlier.get(name)
        receipt = self._sender.bring(name, listed=name in (self._present or {}), known=known)
        with self._lock:
            self._settled[name] = receipt
        return receipt

    def _load_earlier(self) -> None:
        """Read the receipts of earlier and parallel uploaders, unless everything is to be read back."""
        earlier = read_upload_record(self.run_dir) if self._verify == "sample" else None
        if earlier and (earlier.url, earlier.fingerprint) == (self.url, self.fingerprint):
            self._earlier = earlier.files

    def _retract(self) -> None:
        """Before anything changes at the destination, readers must no longer trust it."""
        with self._lock:
            if not self._retracted and self._store.head(SUCCESS) is not None:
                self._record({})
                self._store.delete(SUCCESS)
            self._retracted = True

    def _refuse_strangers(self, present: Mapping[str, StoredObject], own: set[str]) -> None:
        strangers = sorted(
            key for key in present if key.startswith(SHARD_FOLDERS) and not key.endswith("/") and key not in own
        )
        if strangers:
            raise UploadError(
                f"{self.url} holds {len(strangers)} shard files that are not of this run, such as {strangers[0]}. "
                "Remove them or choose another URL; _SUCCESS was not written"
            )

    def _publish(self, manifest: bytes, success: bytes, present: Mapping[str, StoredObject]) -> None:
        if SUCCESS in present and (self._store.read(SUCCESS), self._store.read(MANIFEST)) == (success, manifest):
            return
        self._retract()
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

    def _record(
        self, files: Mapping[str, UploadedFile], *, complete: bool = False, manifest_sha256: str | None = None
    ) -> UploadRecord:
        receipt = UploadRecord(
            url=self.url,
            run_id=self.run_id,
            fingerprint=self.fingerprint,
            complete=complete,
            manifest_sha256=manifest_sha256,
            files=files,
            files_sent=self._sender.files_sent,
            bytes_sent=self._sender.bytes_sent,
        )
        return update_upload_record(self.run_dir, receipt)


def upload_run(
    run_dir: Path, url: str, *, verify: Verify = "sample", transfer: TransferSettings | None = None
) -> UploadRecord:
    """Upload a finished run to ``URL/RUN_ID``, or complete an upload that was cut short."""
    with RunUploader(run_dir, url, verify=verify, transfer=transfer) as uploader:
        return uploader.finish()


def _is_settled(file: ManifestFile, known: Mapping[str, UploadedFile], present: Mapping[str, StoredObject]) -> bool:
    mine, stored = known.get(file.path), present.get(file.path)
    if mine is None or stored is None:
        return False
    return (mine.sha256, mine.size, mine.etag) == (file.sha256, stored.size, stored.etag)


def _success(run_id: str, manifest_sha256: str) -> bytes:
    return json.dumps({"run_id": run_id, "manifest_sha256": manifest_sha256}).encode() + b"\n"


def _fingerprint(config: bytes) -> str:
    try:
        return str(json.loads(config)["fingerprint"])
    except (ValueError, KeyError, TypeError):
        return "unreadable"


def _exit_on_sigterm(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
