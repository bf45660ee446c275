"""The runs of a directory on a terminal, one line each."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from tasks.results.run_list import ListedRun

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
    """One line per run, with the whole run id; ``narrow`` leaves out the columns of _WIDE_ONLY."""
    columns = [column for column in _COLUMNS if not (narrow and column in _WIDE_ONLY)]
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="right" if name in _NUMBERS else "left", no_wrap=True)
    for run in runs:
        values: dict[str, str | Text] = {
            "run": Text(run.run_id),
            "state": Text(run.state, style=_STATE_COLOURS[run.state]),
            "questions": _count(run.questions),
            "rollouts": f"{run.rollouts:,}"
            if run.rollouts_planned in (None, run.rollouts)
            else f"{run.rollouts:,} of {run.rollouts_planned:,}",
            "reward": "-" if run.mean_reward is None else f"{run.mean_reward:.3f}",
            "equivalence": run.verdict or "-",
            "size": decimal(run.bytes),
            "changed (UTC)": f"{run.updated:%Y-%m-%d %H:%M}",
            "uploaded": "yes" if run.uploaded else "-",
        }
        table.add_row(*(values[name] for name in columns))
    return table


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"
