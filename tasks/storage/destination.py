"""Opens the store at a destination URL, and checks before a run that the store can be written to."""

import os
from pathlib import Path
from uuid import uuid4

from tasks.errors import ConfigError, UploadError
from tasks.storage.filesystems import USE, TransferSettings, open_filesystem
from tasks.storage.object_store import ObjectStore, protocols
from tasks.storage.s3_object_store import S3ObjectStore
from tasks.storage.transfer_scope import add_to_scope
from tasks.user_paths import check_directory

CHECK_PREFIX = ".harvest-check-"
"""Start of the name of the object that a check writes."""
CHECK_ATTEMPTS = 3
"""How often a check tries a request. It is less often than in an upload, because a user may wait for the answer."""
_READ_ONLY = frozenset({"http", "https"})


def open_store(
    url: str, transfer: TransferSettings | None = None, state: Path | None = None, *, for_writing: bool = False
) -> ObjectStore:
    """Return the store at ``url``. A caller that uploads passes ``state``, the directory of multipart upload records.

    Raises ConfigError for a URL that cannot be a destination, ``for_writing`` also for a directory that takes no files.
    """
    transfer = transfer or TransferSettings()
    filesystem, root = open_filesystem(url, transfer)
    if for_writing and _READ_ONLY.intersection(protocols(filesystem)):
        raise ConfigError(f"{url!r} can be read, and nothing can be written to it. {USE}")
    if for_writing and "file" in protocols(filesystem):
        # a write is tried again for a long time, as a mounted store may come back
        check_directory(Path(root), "the destination")
    if "s3" in protocols(filesystem):
        return add_to_scope(S3ObjectStore(url, transfer, filesystem, root, state))
    return add_to_scope(ObjectStore(url, transfer, filesystem, root))


def check_destination(url: str, transfer: TransferSettings | None = None) -> None:
    """Write an object below ``url``, read it back and delete it; of a directory, check that it takes files.

    Raises ConfigError when the URL is wrong (unknown protocol, no such bucket), UploadError when the destination
    refuses or does not answer. The message says what to do and contains no secret.
    """
    store = open_store(url, transfer or TransferSettings(attempts=CHECK_ATTEMPTS), for_writing=True)
    if store.is_directory:
        return  # a later check may refuse the command, which must leave no directory behind
    key, data = f"{CHECK_PREFIX}{uuid4().hex}", os.urandom(16)
    # find out before the run whether listing is allowed: without it, S3 answers 403 for a missing object, not 404
    store.head(key)
    store.put_bytes(key, data, fingerprint="")
    try:
        if store.read(key) != data:
            raise UploadError(f"{store.url} returned other bytes than were written to it. Use another destination")
    finally:
        store.delete(key)
