"""A destination: opened for transfers, and checked before a run depends on it."""

import os
from pathlib import Path
from uuid import uuid4

from tasks.errors import UploadError
from tasks.storage.filesystems import TransferSettings, open_filesystem
from tasks.storage.object_store import ObjectStore, protocols
from tasks.storage.s3_object_store import S3ObjectStore
from tasks.storage.transfer_scope import add_to_scope

CHECK_PREFIX = ".harvest-check-"
CHECK_ATTEMPTS = 3
"""Somebody may be waiting for the answer of a check."""


def open_store(url: str, transfer: TransferSettings | None = None, state: Path | None = None) -> ObjectStore:
    """The objects below ``url``; ``state`` is where multipart uploads are recorded, for those who upload.

    Raises ConfigError for a URL that cannot be a destination.
    """
    transfer = transfer or TransferSettings()
    filesystem, root = open_filesystem(url, transfer)
    if "s3" in protocols(filesystem):
        return add_to_scope(S3ObjectStore(url, transfer, filesystem, root, state))
    return add_to_scope(ObjectStore(url, transfer, filesystem, root))


def check_destination(url: str, transfer: TransferSettings | None = None) -> None:
    """Write an object below ``url``, read it back and delete it.

    Raises ConfigError when the URL cannot be right (unknown protocol, no such bucket), UploadError when the
    destination refuses or does not answer; the text says what to do and holds no secret.
    """
    store = open_store(url, transfer or TransferSettings(attempts=CHECK_ATTEMPTS))
    key, data = f"{CHECK_PREFIX}{uuid4().hex}", os.urandom(16)
    # without the right to list, S3 answers 403 instead of 404 for what does not exist: say so before a run starts
    store.head(key)
    store.put_bytes(key, data, fingerprint="")
    try:
        if store.read(key) != data:
            raise UploadError(f"{store.url} returned other bytes than were written to it. Use another destination")
    finally:
        store.delete(key)
