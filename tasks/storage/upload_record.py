"""The upload receipt: what a destination is known to hold, kept in the run directory."""

import fcntl
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from tasks.files import publish_json, read_json
from tasks.records import RunPaths

Verified = Literal["size", "etag", "checksum", "read"]


@dataclass(frozen=True, kw_only=True)
class UploadedFile:
    """One stored file. ``verified`` is the strongest proof that the store holds its bytes.

    ``size``: size and, where kept, recorded sha256; ``etag``: MD5 computed by the server; ``checksum``: sha256
    compared by the server; ``read``: read back and hashed.
    """

    size: int
    sha256: str
    etag: str
    verified: Verified


@dataclass(frozen=True, kw_only=True)
class UploadRecord:
    """What was uploaded where. ``complete`` means that ``_SUCCESS`` was written over exactly these files."""

    url: str
    run_id: str
    fingerprint: str
    complete: bool = False
    manifest_sha256: str | None = None
    files: Mapping[str, UploadedFile] = field(default_factory=dict)
    files_sent: int = 0
    bytes_sent: int = 0
    """Sent by the last upload; what it found in place is not counted."""


def read_upload_record(run_dir: Path) -> UploadRecord | None:
    """The receipt in ``run_dir``, or None when there is none that can be read."""
    raw = read_json(RunPaths(root=run_dir).upload_record)
    try:
        return UploadRecord(**{**raw, "files": {name: UploadedFile(**entry) for name, entry in raw["files"].items()}})
    except (TypeError, KeyError, AttributeError):
        return None


def update_upload_record(run_dir: Path, update: UploadRecord) -> UploadRecord:
    """Merge ``update`` into the receipt on disk, under a lock: several uploaders may work on one run."""
    paths = RunPaths(root=run_dir)
    paths.state.mkdir(parents=True, exist_ok=True)
    with (paths.state / "upload_receipt.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = read_upload_record(run_dir)
        same = before is not None and (before.url, before.fingerprint) == (update.url, update.fingerprint)
        files: dict[str, UploadedFile] = {**(before.files if before and same else {}), **update.files}
        merged = replace(update, files=dict(sorted(files.items())))
        publish_json(asdict(merged), paths.upload_record)
    return merged
