"""Lists, looks up, reads, writes and deletes objects below one URL of any fsspec filesystem, with retries."""

import hashlib
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from tasks.errors import UploadError
from tasks.files import atomic_path, is_temporary
from tasks.storage.digests import Digest
from tasks.storage.filesystems import TransferSettings
from tasks.storage.retries import with_retries
from tasks.storage.transfer_errors import TransferStoppedError, explain, is_missing, redact

Result = TypeVar("Result")

CHUNK_BYTES = 8 * 2**20
"""How much of an object one read request returns."""
BODIES_IN_MEMORY = threading.BoundedSemaphore(8)
"""Limits the bodies and chunks that all stores of this process hold at once, and so their memory."""


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """An object as its store describes it."""

    size: int
    """In bytes."""
    etag: str
    """Changes with the content; without quotes."""
    etag_is_md5: bool = False
    """Whether the bytes alone determine ``etag`` (see ``Digest.etag``)."""
    sha256: str | None = None
    """The sha256 that the writer recorded, in hex; None where the store keeps no metadata."""
    checksum_verified: bool = False
    """Whether the server compared a sha256 checksum when it received the object."""


class ObjectStore:
    """A store without metadata and with arbitrary ETags, as any fsspec filesystem can be. Keys are relative to ``url``.

    Every method may raise ConfigError or UploadError, and TransferStoppedError after ``stop``.
    """

    def __init__(self, url: str, transfer: TransferSettings, filesystem: Any, root: str) -> None:
        self.url = redact(url.rstrip("/"))
        self.transfer = transfer
        self._fs = filesystem
        self._root = root.rstrip("/")
        self._stop = threading.Event()
        self._secrets = transfer.credentials().secrets() if transfer.credentials else ()

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory of this machine."""
        return "file" in protocols(self._fs)

    def head(self, key: str) -> StoredObject | None:
        """Return what the store says about the object at ``key``, or None when there is none."""
        try:
            return self._stored_object(self._call(f"looking up {key}", lambda: self._fs.info(self._path(key))))
        except FileNotFoundError:
            return None

    def listing(self) -> dict[str, StoredObject]:
        """Return every object below the URL, by key."""
        try:
            found = self._call("listing", lambda: self._fs.find(self._root))
        except FileNotFoundError:
            return {}
        prefix = self._fs._strip_protocol(self._root).rstrip("/") + "/"
        keys = [path.removeprefix(prefix) for path in found if not is_temporary(Path(path))]
        # some filesystems list an object with another ETag than they look it up with, and callers compare the two
        with ThreadPoolExecutor(self.transfer.workers) as pool:
            looked_up = dict(zip(keys, pool.map(self.head, keys), strict=True))
        return {key: stored for key, stored in looked_up.items() if stored is not None}

    def read(self, key: str) -> bytes | None:
        """Return the bytes of a small object, or None when there is none."""
        try:
            return self._call(f"reading {key}", lambda: self._get(key, None))
        except FileNotFoundError:
            return None

    def read_chunks(self, key: str, size: int) -> Iterator[bytes]:
        """Yield the first ``size`` bytes of the object in chunks of ``CHUNK_BYTES``.

        Raises UploadError when the object is missing or shorter.
        """
        for start in range(0, size, CHUNK_BYTES):
            span = (start, min(size, start + CHUNK_BYTES))
            try:
                with BODIES_IN_MEMORY:
                    data = self._call(f"reading {key}", partial(self._get, key, span))
            except FileNotFoundError:
                raise UploadError(f"{key} does not exist at {self.url}") from None
            if len(data) != span[1] - span[0]:
                # retryable: another process may be replacing the object
                raise UploadError(f"{key} at {self.url} is shorter than its {size} bytes", retryable=True)
            yield data

    def sha256(self, key: str, size: int) -> str:
        """Read the object back and return the hex sha256 of its ``size`` bytes."""
        digest = hashlib.sha256()
        for data in self.read_chunks(key, size):
            digest.update(data)
        return digest.hexdigest()

    def put_file(self, key: str, file: BinaryIO, digest: Digest, fingerprint: str) -> StoredObject:
        """Store the open file, and return what the store then says about it."""

        def put() -> None:
            if self.is_directory:
                # from the open descriptor: a newer file may be at the path by now
                with atomic_path(Path(self._path(key))) as temporary, temporary.open("wb") as copy:
                    file.seek(0)
                    shutil.copyfileobj(file, copy, CHUNK_BYTES)
            else:
                with BODIES_IN_MEMORY:
                    self._fs.put_file(file.name, self._path(key))

        self._call(f"writing {key}", put)
        return self._head_written(key)

    def put_bytes(self, key: str, data: bytes, fingerprint: str) -> StoredObject:
        """Store a small object, and return what the store then says about it."""

        def put() -> None:
            if self.is_directory:
                with atomic_path(Path(self._path(key))) as temporary:
                    temporary.write_bytes(data)
            else:
                self._fs.pipe_file(self._path(key), data)

        self._call(f"writing {key}", put)
        return self._head_written(key)

    def delete(self, key: str) -> None:
        """Delete the object, if it exists."""

        def remove() -> None:
            try:
                self._fs.rm_file(self._path(key))
            except FileNotFoundError:
                return

        self._call(f"deleting {key}", remove)

    def stop(self) -> None:
        """End running and later calls with TransferStoppedError; running calls abort their multipart uploads."""
        self._stop.set()

    def wait(self, seconds: float) -> None:
        """Wait so long. Raises TransferStoppedError as soon as the store is stopped."""
        if self._stop.wait(seconds):
            raise TransferStoppedError(f"waiting for {self.url} was stopped")

    def abort_orphaned_uploads(self) -> int:
        """Abort multipart uploads that killed processes of this run left open; return how many."""
        return 0

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}" if self._root else key

    def _get(self, key: str, span: tuple[int, int] | None) -> bytes:
        start, end = span or (None, None)
        if self.is_directory and not Path(self._path(key)).is_file():
            raise FileNotFoundError(key)  # a pipe or a device may have no end
        return bytes(self._fs.cat_file(self._path(key), start=start, end=end))

    def _head_written(self, key: str) -> StoredObject:
        stored = self.head(key)
        if stored is None:
            raise UploadError(f"{key} is not at {self.url} although the store accepted it")
        return stored

    def _stored_object(self, info: dict[str, Any]) -> StoredObject:
        marks = [info.get(name) for name in ("ETag", "etag", "md5Hash", "mtime", "created", "LastModified", "ino")]
        return StoredObject(size=int(info["size"]), etag="/".join(str(mark) for mark in marks if mark is not None))

    def _call(self, what: str, call: Callable[[], Result], *, retry: bool = True) -> Result:
        """Return the result of ``call``. Raises FileNotFoundError for a missing object, else a HarvestError."""
        try:
            if not retry:
                return call()
            return with_retries(
                call, what=f"{what} at {self.url}", transfer=self.transfer, stop=self._stop, secrets=self._secrets
            )
        except CancelledError:
            raise TransferStoppedError(f"{what} at {self.url} was stopped") from None
        except Exception as error:
            if is_missing(error):
                raise FileNotFoundError(what) from None
            raise explain(error, what=what, url=self.url, secrets=self._secrets) from None


def protocols(filesystem: Any) -> tuple[str, ...]:
    """Return the protocols of an fsspec filesystem, such as ``("s3", "s3a")``."""
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)
