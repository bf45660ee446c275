"""A destination: opened for transfers, and checked before a run depends on it."""

import os
from pathlib import Path
from uuid import uuid4

from tasks.errors import UploadError
from tasks.storage.filesystems import Transfer, open_filesystem
from tasks.storage.objects import Objects, protocols
from tasks.storage.s3_objects import S3Objects
from tasks.storage.transfer_scope import in_scope

CHECK_PREFIX = ".harvest-check-"
CHECK_ATTEMPTS = 3
"""Somebody may be waiting for the answer of a check."""


def open_objects(url: str, transfer: Transfer | None = None, state: Path | None = None) -> Objects:
    """The objects below ``url``; ``state`` is where multipart uploads are recorded, for those who upload.

    Raises ConfigError for a URL that cannot be a destination.
    """
    transfer = transfer or Transfer()
    filesystem, root = open_filesystem(url, transfer)
    if "s3" in protocols(filesystem):
        return in_scope(S3Objects(url, transfer, filesystem, root, state))
    return in_scope(Objects(url, transfer, filesystem, root))


def check_destination(url: str, transfer: Transfer | None = None) -> None:
    """Write an object below ``url``, read it back and delete it.

    Raises ConfigError when the URL cannot be right (unknown protocol, no such bucket), UploadError when the
    destination refuses or does not answer; the text says what to do and holds no secret.
    """
    store = open_objects(url, transfer or Transfer(attempts=CHECK_ATTEMPTS))
    key, data = f"{CHECK_PREFIX}{uuid4().hex}", os.urandom(16)
    # without the right to list, S3 answers 403 instead of 404 for what does not exist: say so before a run starts
    store.head(key)
    store.put_bytes(key, data, fingerprint="")
    try:
        if store.read(key) != data:
            raise UploadError(f"{store.url} returned other bytes than were written to it. Use another destination")
    finally:
        store.delete(key)
