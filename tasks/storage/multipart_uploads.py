"""A record of multipart uploads in progress, so that those of a killed process can be taken back.

One small file per upload: written before the upload is opened, completed with its id, removed when nothing is open.
"""

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from tasks.files import publish_json, read_json


@dataclass(frozen=True, kw_only=True)
class OpenUpload:
    """One recorded upload. ``upload_id`` is None when the process died before it learnt the id."""

    path: Path
    bucket: str
    key: str
    upload_id: str | None = None

    def opened(self, upload_id: str) -> None:
        """Record the id that the server gave."""
        _publish(self.path, self.bucket, self.key, upload_id)

    def close(self) -> None:
        """Forget the upload: it was completed or aborted."""
        self.path.unlink(missing_ok=True)


class OpenUploads:
    """The records of one run, in ``STATE/multipart/``."""

    def __init__(self, state: Path) -> None:
        self._directory = state / "multipart"

    def begin(self, bucket: str, key: str) -> OpenUpload:
        """Record that an upload to ``key`` is about to be opened."""
        path = self._directory / f"{uuid.uuid4().hex}.json"
        _publish(path, bucket, key, None)
        return OpenUpload(path=path, bucket=bucket, key=key)

    def left_by_the_dead(self, bucket: str, prefix: str) -> Iterator[OpenUpload]:
        """Uploads below ``prefix`` whose process no longer lives."""
        for path in sorted(self._directory.glob("*.json")):
            entry = read_json(path)
            if entry is None:
                continue
            if entry["bucket"] == bucket and entry["key"].startswith(prefix) and not _lives(entry["owner"]):
                yield OpenUpload(path=path, bucket=bucket, key=entry["key"], upload_id=entry["upload_id"])


def _publish(path: Path, bucket: str, key: str, upload_id: str | None) -> None:
    owner = [os.getpid(), psutil.Process().create_time()]
    publish_json({"bucket": bucket, "key": key, "upload_id": upload_id, "owner": owner}, path)


def _lives(owner: tuple[int, float]) -> bool:
    pid, started = owner
    try:
        process = psutil.Process(pid)
        return bool(process.create_time() == started and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
