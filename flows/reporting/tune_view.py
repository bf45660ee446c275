"""Renders what ``harvest tune`` measured for the terminal."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from tasks.results.tuning import Trial, fastest_of


def render_trials(trials: Sequence[Trial]) -> Table:
    """Return a table of ``trials`` in their order, the fastest marked."""
    best = fastest_of(trials)
    table = Table("", "candidate", "tokens/s", "in flight", "KV cache", "preempted", "in graphs", "what happened")
    for column in table.columns[2:7]:
        column.justify = "right"
    for trial in trials:
        table.add_row(
            Text("best", "bold green") if trial is best else "",
            trial.label,
            "" if trial.tokens_per_s is None else f"{trial.tokens_per_s:,.0f}",
            "" if trial.running is None else f"{trial.running:,.0f}",
            _percent(trial.kv_cache_usage),
            "" if trial.preemptions is None else f"{trial.preemptions:,}",
            _percent(trial.graph_step_share),
            f"failed: {trial.failure}" if trial.failure else f"measured for {trial.seconds or 0:,.0f} s",
        )
    return table


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f}%"
