"""Lists the runs of a directory with their progress and outcome, and shows them on a terminal.

Only small files are read, so that a directory of many runs is listed at once.
"""

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from tasks.comparison.equivalence_report import read_equivalence
from tasks.locks import Holder
from tasks.plain_text import one_line
from tasks.results.run_report import read_report
from tasks.results.run_state import StateName, run_state, undamaged

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ListedRun:
    """One run. A value that is not in its files is None."""

    run_id: str
    state: StateName
    reason: str | None
    """Who runs it, why it failed, where it was uploaded to: as RunState has it."""
    holder: Holder | None
    """The process that works on it."""
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
    state = run_state(run_dir)
    report, comparison = undamaged(read_report, run_dir), undamaged(read_equivalence, run_dir)
    stats = [*_stats(run_dir)]
    return ListedRun(
        run_id=run_dir.name,
        state=state.name,
        reason=state.reason,
        holder=state.holder,
        questions=state.questions,
        rollouts=state.rollouts,
        rollouts_planned=state.rollouts_planned,
        mean_reward=report.mean_reward if report else None,
        verdict=comparison.verdict if comparison else None,
        uploaded=state.uploaded,
        bytes=sum(stat.st_size for stat in stats),
        updated=datetime.fromtimestamp(max((stat.st_mtime for stat in stats), default=0.0), UTC),
    )


def _stats(directory: Path | str) -> Iterator[os.stat_result]:
    # a run that goes on removes and renames files
    with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                if entry.is_dir(follow_symlinks=False):
                    yield from _stats(entry.path)
                elif entry.is_file():
                    yield entry.stat()


_STATE_COLOURS: dict[StateName, str] = {
    "planned": "yellow",
    "running": "cyan",
    "interrupted": "yellow",
    "failed": "red",
    "finished": "green",
    "uploaded": "green",
}
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
_MOST_REASONS = 10
_LONGEST_REASON = 300
"""In characters."""
_WIDE_ONLY = ("questions", "changed (UTC)", "uploaded")


def render_runs(runs: Sequence[ListedRun], *, narrow: bool = False) -> RenderableType:
    """Return one line per run, with the whole run id, and below what there is to say of the states of the first.

    ``narrow`` leaves out the columns of _WIDE_ONLY.
    """
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
    told = [run for run in runs if run.reason and run.state != "uploaded"]
    lines = [
        Text.assemble(
            one_line(run.run_id, 300),
            ": ",
            (run.state, _STATE_COLOURS[run.state]),
            f", {one_line(run.reason or '', _LONGEST_REASON)}",
        )
        for run in told[:_MOST_REASONS]
    ]
    if len(told) > len(lines):
        lines.append(Text(f"and {len(told) - len(lines):,} more, whose reasons --json tells"))
    return Group(table, *lines)


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"
