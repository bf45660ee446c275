"""Objects below one URL of any fsspec filesystem: what an upload, a check and a download need of a store."""

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
from tasks.storage.filesystems import TransferSettings, with_retries
from tasks.storage.transfer_errors import TransferStoppedError, explain, is_missing, redact

Result = TypeVar("Result")

CHUNK_BYTES = 8 * 2**20

BODIES = threading.BoundedSemaphore(8)
"""Bodies in memory at once in this process, however many uploaders it runs: this is what bounds memory."""


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """What a store says about an object. ``etag`` has no quotes and changes with the content."""

    size: int
    etag: str
    etag_is_md5: bool = False
    """Whether ``etag`` follows from the bytes alone (see ``Digest.etag``)."""
    sha256: str | None = None
    """What the writer recorded, where the store keeps metadata."""
    checksum_verified: bool = False
    """Whether the server itself compared a strong checksum when it took the object."""


class ObjectStore:
    """Objects of any fsspec filesystem, which knows neither metadata nor ETags that follow from the bytes."""

    def __init__(self, url: str, transfer: TransferSettings, filesystem: Any, root: str) -> None:
        self.url = redact(url.rstrip("/"))
        self.transfer = transfer
        self._fs = filesystem
        self._root = root.rstrip("/")
        self._stop = threading.Event()
        self._secrets = transfer.credentials().secrets() if transfer.credentials else ()

    def head(self, key: str) -> StoredObject | None:
        """What is stored at ``key``, or None."""
        try:
            return self._remote_object(self._call(f"looking up {key}", lambda: self._fs.info(self._path(key))))
        except FileNotFoundError:
            return None

    def listing(self) -> dict[str, StoredObject]:
        """Every object below the URL, by key."""
        try:
            found = self._call("listing", lambda: self._fs.find(self._root))
        except FileNotFoundError:
            return {}
        prefix = self._fs._strip_protocol(self._root).rstrip("/") + "/"
        keys = [path.removeprefix(prefix) for path in found if not is_temporary(Path(path))]
        # what a listing says of an object need not be what a look-up says of it, and the two are compared
        with ThreadPoolExecutor(self.transfer.workers) as pool:
            looked_up = dict(zip(keys, pool.map(self.head, keys), strict=True))
        return {key: stored for key, stored in looked_up.items() if stored is not None}

    def read(self, key: str) -> bytes | None:
        """A small object's bytes, or None when there is none."""
        try:
            return self._call(f"reading {key}", lambda: self._get(key, None))
        except FileNotFoundError:
            return None

    def read_chunks(self, key: str, size: int) -> Iterator[bytes]:
        """The object's bytes in pieces of ``CHUNK_BYTES``. Raises UploadError when it ends early or is missing."""
        for start in range(0, size, CHUNK_BYTES):
            span = (start, min(size, start + CHUNK_BYTES))
            try:
                with BODIES:
                    data = self._call(f"reading {key}", partial(self._get, key, span))
            except FileNotFoundError:
                raise UploadError(f"{key} does not exist at {self.url}") from None
            if len(data) != span[1] - span[0]:
                # also when it is being replaced at this moment
                raise UploadError(f"{key} at {self.url} is shorter than its {size} bytes", retryable=True)
            yield data

    def sha256(self, key: str, size: int) -> str:
        """Hex sha256 of the stored bytes, read back."""
        digest = hashlib.sha256()
        for data in self.read_chunks(key, size):
            digest.update(data)
        return digest.hexdigest()

    def put_file(self, key: str, file: BinaryIO, digest: Digest, fingerprint: str) -> StoredObject:
        """Store the file; returns what the store then holds."""

        def put() -> None:
            if "file" in protocols(self._fs):
                # from the open descriptor: the path may hold a newer file by now
                with atomic_path(Path(self._path(key))) as temporary, temporary.open("wb") as copy:
                    file.seek(0)
                    shutil.copyfileobj(file, copy, CHUNK_BYTES)
            else:
                with BODIES:
                    self._fs.put_file(file.name, self._path(key))

        self._call(f"writing {key}", put)
        return self._after_put(key)

    def put_bytes(self, key: str, data: bytes, fingerprint: str) -> StoredObject:
        """Store a small object; returns what the store then holds."""

        def put() -> None:
            if "file" in protocols(self._fs):
                with atomic_path(Path(self._path(key))) as temporary:
                    temporary.write_bytes(data)
            else:
                self._fs.pipe_file(self._path(key), data)

        self._call(f"writing {key}", put)
        return self._after_put(key)

    def delete(self, key: str) -> None:
        """Remove the object, if it exists."""

        def remove() -> None:
            try:
                self._fs.rm_file(self._path(key))
            except FileNotFoundError:
                return

        self._call(f"deleting {key}", remove)

    def stop(self) -> None:
        """Make running and later calls end with TransferStoppedError, and take back what they left half done."""
        self._stop.set()

    def wait(self, seconds: float) -> None:
        """Wait so long. Raises TransferStoppedError as soon as the store is stopped."""
        if self._stop.wait(seconds):
            raise TransferStoppedError(f"what waited for {self.url} was stopped")

    def abort_orphaned_uploads(self) -> int:
        """Abort half-done uploads that a killed process of ours left; returns how many there were."""
        return 0

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}" if self._root else key

    def _get(self, key: str, span: tuple[int, int] | None) -> bytes:
        start, end = span or (None, None)
        return bytes(self._fs.cat_file(self._path(key), start=start, end=end))

    def _after_put(self, key: str) -> StoredObject:
        stored = self.head(key)
        if stored is None:
            raise UploadError(f"{key} is not at {self.url} although the store accepted it")
        return stored

    def _remote_object(self, info: dict[str, Any]) -> StoredObject:
        marks = [info.get(name) for name in ("ETag", "etag", "md5Hash", "mtime", "created", "LastModified", "ino")]
        return StoredObject(size=int(info["size"]), etag="/".join(str(mark) for mark in marks if mark is not None))

    def _call(self, what: str, call: Callable[[], Result], *, retry: bool = True) -> Result:
        """Run ``call`` with retries. Raises FileNotFoundError for a missing object, else a typed error."""
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
    """The protocols that an fsspec filesystem serves, such as ``("s3", "s3a")``."""
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)
