"""Keeps the record of an upload, ``upload_receipt.json``: the files that the destination is known to hold."""

import fcntl
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from tasks.files import publish_json, try_read_record
from tasks.locks import open_lock_file
from tasks.records import RunPaths

Verified = Literal["size", "etag", "checksum", "read"]
"""The proof that the store holds a file's bytes, the weakest first.

``size``: the size is the file's, and so is the recorded sha256 where the store keeps one; ``etag``: the server computed
the same MD5; ``checksum``: the server compared the sha256; ``read``: the bytes were read back and hashed.
"""


@dataclass(frozen=True, kw_only=True)
class UploadedFile:
    """One file that the destination holds."""

    size: int
    """In bytes."""
    sha256: str
    """In hex."""
    etag: str
    verified: Verified


@dataclass(frozen=True, kw_only=True)
class UploadRecord:
    """The files of an upload and its destination."""

    url: str
    run_id: str
    fingerprint: str
    complete: bool = False
    """Whether ``_SUCCESS`` was written, for exactly these files."""
    manifest_sha256: str | None = None
    """In hex; None until the upload is complete."""
    files: Mapping[str, UploadedFile] = field(default_factory=dict)
    files_sent: int = 0
    """How many files the last upload sent; files that were there before do not count."""
    bytes_sent: int = 0
    """How many bytes the last upload sent."""


def read_upload_record(run_dir: Path) -> UploadRecord | None:
    """Return the record in ``run_dir``, or None when there is none that can be read."""
    return try_read_record(RunPaths(root=run_dir).upload_record, UploadRecord)


def update_upload_record(run_dir: Path, update: UploadRecord) -> UploadRecord:
    """Publish ``update``. If it is not complete, it keeps the files of an earlier record of this run at this place.

    Works under a lock, since several uploaders may work on one run.
    """
    paths = RunPaths(root=run_dir)
    with open_lock_file(paths.state / "upload_receipt.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = read_upload_record(run_dir)
        same = before is not None and (before.url, before.fingerprint) == (update.url, update.fingerprint)
        kept = before.files if before and same and not update.complete else {}
        files: dict[str, UploadedFile] = {**kept, **update.files}
        merged = replace(update, files=dict(sorted(files.items())))
        publish_json(asdict(merged), paths.upload_record)
    return merged
