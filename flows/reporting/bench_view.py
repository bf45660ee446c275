"""Renders the result of a benchmark for the terminal."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flows.bench import BenchResult
from tasks.plain_text import clock
from tasks.results.bench_statistics import PROJECTED_QUESTIONS, PROJECTION_ASSUMPTION, Spread

LEGEND = {
    "baseline": "one question under its arms per LLM.generate call, with the baseline profile's engine",
    "script": "16 questions per LLM.generate call, each waiting for the last sequence of the one before",
    "limit": "all prompts in one LLM.generate call: the engine alone",
    "pipeline": "harvest run",
}


def render_bench(result: BenchResult) -> RenderableType:
    """Return the table of speeds, the projection, and the equivalence of each contestant with the baseline."""
    return Group(*_parts(result))


def _parts(result: BenchResult) -> Iterator[RenderableType]:
    plan = result.plan
    repeats = max(item.repeat for item in result.measurements)
    yield Text(
        f"{plan.model.name} on profile {plan.profile.name}: {plan.num_questions:,} questions, "
        f"{plan.num_rollouts:,} rollouts, mean of {repeats}, with the smallest and largest ratio"
    )
    yield _speed(result)
    yield _projection(result)
    yield Text(f"The projection assumes {PROJECTION_ASSUMPTION}.")
    for standing in result.standings:
        yield Text(f"{standing.contestant}: {LEGEND[standing.contestant]}")
    for contestant, found in result.equivalence.items():
        yield Text(
            f"{contestant} against the baseline: {found['verdict']}: {found['reason']} "
            f"(near-tie limit: {found['near_tie_limit_source']})"
        )
    yield Text(f"saved in {result.directory}")


def _speed(result: BenchResult) -> Table:
    on_gpu = any(standing.utilization_percent is not None for standing in result.standings)
    table = Table("", "time s", "sequences/s", "tokens/s", "pipeline / it")
    for name in [*(["GPU busy", "GPU memory"] if on_gpu else []), "equivalence"]:
        table.add_column(name)
    for column in table.columns[1:5]:
        column.justify = "right"
    for standing in result.standings:
        found = result.equivalence.get(standing.contestant)
        row = [
            standing.contestant,
            f"{standing.seconds.mean:.1f}",
            f"{standing.sequences_per_s.mean:,.1f}",
            f"{standing.tokens_per_s.mean:,.0f}",
            _ratio(standing.speedup),
        ]
        if on_gpu:
            row += [_number(standing.utilization_percent, "%"), _number(standing.max_memory_gib, " GiB")]
        table.add_row(*row, found["verdict"] if found else "")
    return table


def _projection(result: BenchResult) -> Table:
    table = Table("questions", *(f"{questions:,}" for questions in PROJECTED_QUESTIONS), title="Projected time")
    for standing in result.standings:
        times = [clock(standing.projection[questions]) for questions in PROJECTED_QUESTIONS]
        table.add_row(standing.contestant, *times)
    return table


def _ratio(spread: Spread | None) -> str:
    if spread is None:
        return ""
    return f"{spread.mean:.2f}x" + ("" if spread.low == spread.high else f" ({spread.low:.2f}-{spread.high:.2f})")


def _number(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.1f}{unit}"
