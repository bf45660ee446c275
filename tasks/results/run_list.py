"""The runs of a directory: what each is, how far it is and what it came to. Only small files are read."""

import fcntl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet

from tasks.comparison.equivalence_report import read_equivalence
from tasks.errors import DamagedFile
from tasks.files import read_json
from tasks.records import RunPaths, shard_indices
from tasks.results.finished_run import read_config

State = Literal["running", "done", "interrupted", "started"]


@dataclass(frozen=True, kw_only=True)
class ListedRun:
    """One run. ``bytes`` counts every file of it, ``updated`` is when the last one changed (UTC).

    ``state``: "running" while a process holds it; "done" with a manifest over every shard; "interrupted" with some
    rollouts published; "started" with none.
    """

    run_id: str
    state: State
    questions: int | None
    rollouts: int
    rollouts_planned: int | None
    mean_reward: float | None
    verdict: str | None
    uploaded: str | None
    bytes: int
    updated: datetime


def list_runs(runs_dir: Path) -> list[ListedRun]:
    """Every run below ``runs_dir``, the last changed first; directories that are no runs are passed over."""
    runs = [summarize_directory(path.parent) for path in runs_dir.glob("*/config.json")]
    return sorted(runs, key=lambda run: run.updated, reverse=True)


def summarize_directory(run_dir: Path) -> ListedRun:
    """What the files of the run at ``run_dir`` say."""
    paths = RunPaths(root=run_dir)
    config = read_config(run_dir)
    report = _object(paths.report)
    record = _object(paths.upload_record)
    stats = [path.stat() for path in run_dir.rglob("*") if path.is_file()]
    rollouts = sum(_rows(paths.rollouts(index)) for index in shard_indices(run_dir / "rollouts"))
    planned = config.get("num_rollouts")
    return ListedRun(
        run_id=run_dir.name,
        state=_state(paths, rollouts, planned),
        questions=config.get("num_questions"),
        rollouts=rollouts,
        rollouts_planned=planned,
        mean_reward=report.get("mean_reward"),
        verdict=_verdict(run_dir),
        uploaded=record.get("url") if record.get("complete") else None,
        bytes=sum(stat.st_size for stat in stats),
        updated=datetime.fromtimestamp(max((stat.st_mtime for stat in stats), default=0.0), UTC),
    )


def _verdict(run_dir: Path) -> str | None:
    try:
        comparison = read_equivalence(run_dir)
    except DamagedFile:  # one damaged file does not hide the other runs
        return None
    return None if comparison is None else comparison.verdict


def _state(paths: RunPaths, rollouts: int, planned: int | None) -> State:
    if _is_locked(paths.state / "lock"):
        return "running"
    if paths.manifest.is_file() and (planned is None or rollouts >= planned):
        return "done"
    return "interrupted" if rollouts else "started"


def _is_locked(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _rows(path: Path) -> int:
    try:
        return int(pyarrow.parquet.read_metadata(path).num_rows)
    except (pyarrow.ArrowException, OSError):
        return 0


def _object(path: Path) -> dict[str, Any]:
    value = read_json(path)
    return value if isinstance(value, dict) else {}
