"""In which state a run is, and why, from its directory: the one place that decides it.

A run that was refused has no state, as it leaves no directory. Only the run's lock makes a run "running", so a process
that was killed never does. Small files are read and no shard of a run with a manifest, as many runs are listed at once.
"""

import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import pyarrow
import pyarrow.parquet

from profiles.regular_files import open_regular, read_regular
from tasks.errors import DamagedFile
from tasks.files import RECORD_BYTES
from tasks.locks import Holder, find_holder
from tasks.records import RunPaths
from tasks.results.finished_run import read_config
from tasks.results.run_end import read_end
from tasks.storage.manifest import MANIFEST, SHARD_FOLDERS, parse_manifest
from tasks.storage.published import published_record
from tasks.storage.run_files import known_waves, lost_shards
from tasks.storage.upload_record import read_upload_record

logger = logging.getLogger(__name__)

Record = TypeVar("Record")
StateName = Literal["planned", "running", "interrupted", "failed", "finished", "uploaded"]


@dataclass(frozen=True, kw_only=True)
class RunState:
    """The state of a run.

    - "planned": it was prepared, and no engine was started for it.
    - "running": a process that collects it holds its lock.
    - "interrupted": such a process ended, or was ended, before the run was finished.
    - "failed": such a process ended with an error before the run was finished.
    - "finished": it has a manifest, all rollouts and all shards on record.
    - "uploaded": it is finished, and the destination holds all that its manifest names.
    """

    name: StateName
    reason: str | None
    """On one line: who runs it, why it failed or was interrupted, where it was uploaded to, what of its upload is
    missing. None when there is nothing to say."""
    holder: Holder | None
    """The process that works on it, if it is known."""
    uploaded: str | None
    """URL of its upload; None unless the upload is complete."""
    questions: int | None
    rollouts: int
    """Published rollouts."""
    rollouts_planned: int | None

    @property
    def is_complete(self) -> bool:
        """Whether the run has all that it was asked for."""
        return self.name in ("finished", "uploaded")

    def __str__(self) -> str:
        return self.name if self.reason is None else f"{self.name} ({self.reason})"


def run_state(run_dir: Path, *, is_mine: bool = False) -> RunState:
    """Return the state of the run at ``run_dir``. A damaged file is logged, and counts as none.

    With ``is_mine`` this process holds the run's lock, and asks for the state without that.
    """
    paths = RunPaths(root=run_dir)
    # first, as a run that ends meanwhile has written everything
    holder, is_held = (None, False) if is_mine else find_holder(paths.state / "lock")
    config = undamaged(read_config, run_dir) or {}
    body = _manifest_bytes(paths.manifest)
    planned = config.get("num_rollouts")
    rollouts, lost = _by_manifest(run_dir, body) if config and body else None, list[str]()
    if rollouts is None:
        rollouts, lost = published_rollouts(run_dir) if config else 0, lost_shards(run_dir)
    if lost:
        logger.warning("%s has lost %s (%d in all)", run_dir, lost[0], len(lost))
    name: StateName
    url: str | None = None
    reason: str | None
    if is_held and not (holder and holder.work):
        name, reason = "running", str(holder or "another process")
    elif body is not None and not lost and (planned is None or rollouts >= planned):
        url, reason = _upload(run_dir, body)
        name = "uploaded" if url else "finished"
    else:
        name, reason = _unfinished(run_dir, holder, rollouts, planned)
        if lost:
            reason = f"{lost[0]} is lost ({len(lost)} in all)"
    return RunState(
        name=name,
        reason=f"{holder.work} works on it: {holder}" if is_held and holder and holder.work else reason,
        holder=holder if is_held else None,
        uploaded=url,
        questions=config.get("num_questions"),
        rollouts=rollouts,
        rollouts_planned=planned,
    )


def undamaged(read: Callable[[Path], Record | None], run_dir: Path) -> Record | None:
    """Return what ``read`` finds in ``run_dir``; logs a damaged file and returns None."""
    try:
        return read(run_dir)
    except DamagedFile as error:
        logger.warning("%s", error)
        return None


def _unfinished(
    run_dir: Path, last: Holder | None, rollouts: int, planned: int | None
) -> tuple[Literal["planned", "interrupted", "failed"], str | None]:
    end = read_end(run_dir)
    if end is not None:
        return end.outcome, f"{end.reason}, {end.at[:19]}Z" if end.outcome == "interrupted" else end.reason
    if not (rollouts or any(_has_files(run_dir / folder) for folder in ("rollouts", "logs", "state/journal"))):
        return "planned", None
    killed = f"killed: {last}" if last and not last.work else "no process works on it"
    if planned is not None and rollouts >= planned:
        return "interrupted", f"{killed}; it has all rollouts, and no manifest yet"
    return "interrupted", killed


def _upload(run_dir: Path, manifest: bytes) -> tuple[str | None, str | None]:
    """Return the URL of the finished run's upload, if that is complete, and what there is to say."""
    record, end = read_upload_record(run_dir), read_end(run_dir)
    if record is not None and record.complete:
        if record.manifest_sha256 in (None, hashlib.sha256(manifest).hexdigest()):
            return record.url, f"to {record.url}"
        return None, f"it has changed since it was uploaded to {record.url}"
    if record is not None and find_holder(RunPaths(root=run_dir).state / "upload.lock")[1]:
        return None, f"an upload to {record.url} is under way"
    if end is not None and end.outcome == "failed":
        return None, f"then it failed: {end.reason}"
    return None, None if record is None else f"its upload to {record.url} is not complete"


def _has_files(directory: Path) -> bool:
    try:
        with os.scandir(directory) as entries:
            return any(not entry.name.startswith(".") for entry in entries)
    except OSError:
        return False


def _manifest_bytes(path: Path) -> bytes | None:
    try:
        return read_regular(path, RECORD_BYTES)
    except OSError:
        return None


def _by_manifest(run_dir: Path, body: bytes) -> int | None:
    """Return how many rollouts a run has whose shards are those of its manifest, as far as names and sizes tell.

    None for another run, whose shards are then looked at.
    """
    try:
        manifest = parse_manifest(body)
    except ValueError as error:
        logger.warning("%s is damaged: %s", run_dir / MANIFEST, error)
        return None
    rollouts = 0
    for file in manifest.files:
        folder = file.path.partition("/")[0]
        if folder in SHARD_FOLDERS:
            try:
                size = (run_dir / file.path).stat().st_size
            except OSError:
                return None
            if folder == "rollouts":
                if size != file.bytes:
                    return None
                rollouts += file.rows or 0
    return rollouts


def published_rollouts(run_dir: Path) -> int:
    """Return how many rollouts are published; those of a damaged shard, as far as its size tells, do not count."""
    return sum(published_by_wave(run_dir).values())


def published_by_wave(run_dir: Path) -> dict[int, int]:
    """Return how many rollouts each published file has, by its index; damaged ones as ``published_rollouts`` does."""
    return {index: _rows(path) for index, path in (undamaged(_rollout_shards, run_dir) or {}).items()}


def _rollout_shards(run_dir: Path) -> dict[int, Path]:
    return known_waves(run_dir, "rollouts")


def _rows(path: Path) -> int:
    """Return the rows that the footer of a shard states; 0 when the shard is damaged."""
    record = published_record(path)
    try:
        if record is None or path.stat().st_size != record.bytes:
            logger.warning("%s is damaged: it has another size than is on record", path)
            return 0
        with open_regular(path) as file:
            return int(pyarrow.parquet.read_metadata(file).num_rows)
    except (pyarrow.ArrowException, OSError):
        return 0
