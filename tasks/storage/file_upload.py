"""Uploads one file of a run and verifies that it arrived."""

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Literal

from tasks.errors import UploadError
from tasks.files import remember_sha256
from tasks.storage.digests import Digest, digest_file
from tasks.storage.object_store import ObjectStore, StoredObject
from tasks.storage.published import check_published
from tasks.storage.upload_record import UploadedFile, Verified

logger = logging.getLogger(__name__)

Verify = Literal["sample", "full"]
"""Which files are read back: ``sample`` is every twentieth sent file, ``full`` is all files, old ones included."""

_SAMPLE_EVERY = 20
_ROUNDS = 3


class FileUploader:
    """Uploads the files of one run that the store does not hold yet. Several threads may use it.

    It calls ``before_change`` before it sends a file.
    """

    def __init__(
        self,
        store: ObjectStore,
        run_dir: Path,
        fingerprint: str,
        *,
        verify: Verify,
        before_change: Callable[[], None],
    ) -> None:
        self.files_sent = self.bytes_sent = 0
        self._store = store
        self._run_dir = run_dir
        self._fingerprint = fingerprint
        self._verify = verify
        self._before_change = before_change
        self._lock = threading.Lock()

    def upload(self, name: str, *, listed: bool, known: UploadedFile | None) -> UploadedFile:
        """Make the store hold the file ``name`` of the run, and return how that was verified.

        ``listed``: the store has an object of this name. ``known``: the result of an earlier upload of it. Raises
        UploadError when the store holds other bytes after every try, DamagedFile when the file is not as published.
        """
        path = self._run_dir / name
        with path.open("rb") as file:
            before = os.fstat(file.fileno())
            digest = digest_file(file, self._store.transfer.part_bytes)
            remember_sha256(path, before, digest.sha256)
            check_published(path, by_sha256=True)
            stored = self._store.head(name) if listed else None
            verified = self._verify_present(name, digest, stored, known) if stored else None
            if stored is None or verified is None:
                stored, verified = self._send(name, file, digest)
        return UploadedFile(size=digest.size, sha256=digest.sha256, etag=stored.etag, verified=verified)

    def _send(self, name: str, file: BinaryIO, digest: Digest) -> tuple[StoredObject, Verified]:
        self._before_change()
        with self._lock:
            read_back = self._verify == "full" or self.files_sent % _SAMPLE_EVERY == 0
            self.files_sent += 1
        for _ in range(_ROUNDS):
            stored = self._store.put_file(name, file, digest, self._fingerprint)
            with self._lock:
                self.bytes_sent += digest.size
            if verified := self._verify_sent(name, digest, stored, read_back):
                return stored, verified
            logger.warning("%s holds other bytes of %s than were sent; sending them again", self._store.url, name)
        raise UploadError(
            f"{name} was sent {_ROUNDS} times, and each time {self._store.url} then held other bytes. The network or "
            "the store damages data: check them; _SUCCESS was not written"
        )

    def _verify_present(
        self, name: str, digest: Digest, stored: StoredObject, known: UploadedFile | None
    ) -> Verified | None:
        """Return how an object that was there before was verified; None when the file has to be sent."""
        if not _may_match(stored, digest):
            return None
        if self._verify == "sample":
            if stored.etag_is_md5 and stored.etag == digest.etag:
                return "etag"
            if known and (known.sha256, known.etag) == (digest.sha256, stored.etag):
                return known.verified
        return self._verify_by_reading(name, digest)

    def _verify_sent(self, name: str, digest: Digest, stored: StoredObject, read_back: bool) -> Verified | None:
        """Return how an object that was just sent was verified; None when it holds other bytes."""
        if not _may_match(stored, digest):
            return None
        if not read_back:
            if stored.checksum_verified:
                return "checksum"
            if not stored.etag_is_md5:
                return "size"
            if stored.etag == digest.etag:
                return "etag"
        # a store may also compute ETags by another rule than S3's
        return self._verify_by_reading(name, digest)

    def _verify_by_reading(self, name: str, digest: Digest) -> Verified | None:
        return "read" if self._store.sha256(name, digest.size) == digest.sha256 else None


def _may_match(stored: StoredObject, digest: Digest) -> bool:
    return stored.size == digest.size and stored.sha256 in (None, digest.sha256)
