"""Records open multipart uploads, so that a later process can abort the uploads of a process that was killed.

Each upload has one small JSON file: written before the upload is opened, completed with its id, and removed when the
upload is completed or aborted.
"""

import os
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from tasks.errors import DamagedFile
from tasks.files import publish_json, read_record


@dataclass(frozen=True, kw_only=True)
class MultipartUpload:
    """The record of one upload, as its file has it."""

    bucket: str
    key: str
    upload_id: str | None
    """None until the server has answered with the id."""
    owner: tuple[int, float]
    """The process that opened the upload: its pid, and its start in seconds since the epoch."""


@dataclass(frozen=True)
class MultipartRecord:
    """An upload and the file that records it."""

    path: Path
    upload: MultipartUpload

    def add_upload_id(self, upload_id: str) -> None:
        """Record the id that the server gave."""
        publish_json(asdict(replace(self.upload, upload_id=upload_id)), self.path)

    def remove(self) -> None:
        """Remove the record: the upload was completed or aborted."""
        self.path.unlink(missing_ok=True)


class MultipartRecords:
    """The records of one run, in ``STATE/multipart/``."""

    def __init__(self, state: Path) -> None:
        self._directory = state / "multipart"

    def add(self, bucket: str, key: str) -> MultipartRecord:
        """Record that this process is about to open an upload to ``key``."""
        owner = (os.getpid(), psutil.Process().create_time())
        upload = MultipartUpload(bucket=bucket, key=key, upload_id=None, owner=owner)
        record = MultipartRecord(self._directory / f"{uuid.uuid4().hex}.json", upload)
        publish_json(asdict(upload), record.path)
        return record

    def orphans(self, bucket: str, prefix: str) -> Iterator[MultipartRecord]:
        """Yield the records of uploads below ``prefix`` whose process has ended."""
        for path in sorted(self._directory.glob("*.json")):
            try:
                upload = read_record(path, MultipartUpload)
            except DamagedFile:
                continue  # it names no upload that could be aborted
            if upload and upload.bucket == bucket and upload.key.startswith(prefix) and not _lives(upload.owner):
                yield MultipartRecord(path, upload)


def _lives(owner: tuple[int, float]) -> bool:
    pid, started = owner
    try:
        process = psutil.Process(pid)
        return bool(process.create_time() == started and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
