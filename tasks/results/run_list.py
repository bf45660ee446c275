"""Lists the runs of a directory with their progress and outcome, and shows them on a terminal.

Only small files are read, so that a directory of many runs is listed at once.
"""

import contextlib
import fcntl
import logging
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import pyarrow.parquet
from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from profiles.regular_files import open_regular
from tasks.comparison.equivalence_report import read_equivalence
from tasks.errors import DamagedFile
from tasks.plain_text import one_line
from tasks.records import RunPaths
from tasks.results.finished_run import read_config
from tasks.results.run_report import read_report
from tasks.storage.published import published_record
from tasks.storage.run_files import known_shards, lost_shards
from tasks.storage.upload_record import read_upload_record

logger = logging.getLogger(__name__)

Record = TypeVar("Record")
State = Literal["running", "done", "interrupted", "started"]


@dataclass(frozen=True, kw_only=True)
class ListedRun:
    """One run. A value that is not in its files is None."""

    run_id: str
    state: State
    """"running": a process holds its lock. "done": it has a manifest, all rollouts and all shards on record.
    "interrupted": it has some published rollouts. "started": it has none."""
    questions: int | None
    rollouts: int
    """Published rollouts."""
    rollouts_planned: int | None
    mean_reward: float | None
    verdict: str | None
    """The verdict of the comparison with the baseline."""
    uploaded: str | None
    """URL of its upload; None unless the upload is complete."""
    bytes: int
    """Size of all its files."""
    updated: datetime
    """Time of the latest change of its files (UTC)."""


def list_runs(runs_dir: Path) -> list[ListedRun]:
    """Return every run below ``runs_dir``, the last changed first. A directory without config.json is no run.

    A damaged file is logged, and its values are None. So is a directory that cannot be read.
    """
    runs = []
    for path in runs_dir.glob("*/config.json"):
        try:
            runs.append(listed_run(path.parent))
        except OSError as error:
            logger.warning("%s cannot be listed: %s", path.parent, error)
    return sorted(runs, key=lambda run: run.updated, reverse=True)


def listed_run(run_dir: Path) -> ListedRun:
    """Return the line of one run, as ``list_runs`` does. Raises OSError when the directory cannot be read."""
    paths = RunPaths(root=run_dir)
    config = _undamaged(read_config, run_dir) or {}
    report, comparison = _undamaged(read_report, run_dir), _undamaged(read_equivalence, run_dir)
    upload = read_upload_record(run_dir)
    stats = [*_stats(run_dir)]
    shards = _undamaged(partial(known_shards, folder="rollouts"), run_dir) or {}
    rollouts = sum(map(_rows, shards.values()))
    planned = config.get("num_rollouts")
    return ListedRun(
        run_id=run_dir.name,
        state=_state(paths, rollouts, planned),
        questions=config.get("num_questions"),
        rollouts=rollouts,
        rollouts_planned=planned,
        mean_reward=report.mean_reward if report else None,
        verdict=comparison.verdict if comparison else None,
        uploaded=upload.url if upload and upload.complete else None,
        bytes=sum(stat.st_size for stat in stats),
        updated=datetime.fromtimestamp(max((stat.st_mtime for stat in stats), default=0.0), UTC),
    )


def _state(paths: RunPaths, rollouts: int, planned: int | None) -> State:
    if _is_locked(paths.state / "lock"):
        return "running"
    if lost := lost_shards(paths.root):
        logger.warning("%s has lost %s (%d in all)", paths.root, lost[0], len(lost))
    elif paths.manifest.is_file() and (planned is None or rollouts >= planned):
        return "done"
    return "interrupted" if rollouts else "started"


def _stats(run_dir: Path) -> Iterator[os.stat_result]:
    for path in run_dir.rglob("*"):
        # a run that goes on removes and renames files
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISREG((found := path.stat()).st_mode):
                yield found


def _is_locked(path: Path) -> bool:
    try:
        with open_regular(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _rows(path: Path) -> int:
    """Return the rows that the footer of a shard states; 0 when the shard is damaged, as far as its size tells."""
    record = published_record(path)
    try:
        if record is None or path.stat().st_size != record.bytes:
            logger.warning("%s is damaged: it has another size than is on record", path)
            return 0
        with open_regular(path) as file:
            return int(pyarrow.parquet.read_metadata(file).num_rows)
    except (pyarrow.ArrowException, OSError):
        return 0


def _undamaged(read: Callable[[Path], Record | None], run_dir: Path) -> Record | None:
    try:
        return read(run_dir)
    except DamagedFile as error:
        logger.warning("%s", error)
        return None


_STATE_COLOURS = {"done": "green", "running": "cyan", "interrupted": "yellow", "started": "yellow"}
_COLUMNS = (
    "run",
    "state",
    "questions",
    "rollouts",
    "reward",
    "equivalence",
    "size",
    "changed (UTC)",
    "uploaded",
)
_NUMBERS = ("questions", "rollouts", "reward", "size")
_WIDE_ONLY = ("questions", "changed (UTC)", "uploaded")


def render_runs(runs: Sequence[ListedRun], *, narrow: bool = False) -> RenderableType:
    """Return one line per run, with the whole run id. ``narrow`` leaves out the columns of _WIDE_ONLY."""
    columns = [column for column in _COLUMNS if not (narrow and column in _WIDE_ONLY)]
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="right" if name in _NUMBERS else "left", no_wrap=True)
    for run in runs:
        values: dict[str, str | Text] = {
            "run": one_line(run.run_id, 300),
            "state": Text(run.state, style=_STATE_COLOURS[run.state]),
            "questions": _count(run.questions),
            "rollouts": f"{run.rollouts:,}"
            if run.rollouts_planned in (None, run.rollouts)
            else f"{run.rollouts:,} of {run.rollouts_planned:,}",
            "reward": "-" if run.mean_reward is None else f"{run.mean_reward:.3f}",
            "equivalence": one_line(run.verdict or "-", 40),
            "size": decimal(run.bytes),
            "changed (UTC)": f"{run.updated:%Y-%m-%d %H:%M}",
            "uploaded": "yes" if run.uploaded else "-",
        }
        table.add_row(*(values[name] for name in columns))
    return table


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"
