"""Renders the result of a benchmark for the terminal."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flows.bench_result import BenchResult
from tasks.node.arithmetic import FORMULA
from tasks.plain_text import clock
from tasks.results.bench_statistics import PROJECTED_QUESTIONS, PROJECTION_ASSUMPTION, Spread

LEGEND = {
    "baseline": "one question under its arms per LLM.generate call, with the baseline profile's engine",
    "script": "16 questions per LLM.generate call, each waiting for the last sequence of the one before",
    "limit": "all prompts in one LLM.generate call at vLLM's own defaults: no seeds, no logprobs, no text",
    "features": "the same with the seeds, logprobs and text that a run stores",
    "pipeline": "harvest run",
    "vllm-serve": "vllm serve and an async client, tokens in and out: ids, logprobs and seeds",
    "datatrove": "datatrove's InferenceRunner with its vLLM server: text and seeds",
    "ray": "Ray Data LLM: ids, logprobs and seeds",
}


def render_bench(result: BenchResult) -> RenderableType:
    """Return the table of speeds, the projection, and the equivalence of each contestant with the baseline."""
    return Group(*_parts(result))


def _parts(result: BenchResult) -> Iterator[RenderableType]:
    plan = result.plan
    yield Text(
        f"{plan.model.name} on profile {plan.profile.name}: {plan.num_questions:,} questions, "
        f"{plan.num_rollouts:,} rollouts, mean of {result.repeats}, with the smallest and largest ratio"
    )
    yield _speed(result)
    for failure in result.failures:
        yield Text(f"repeat {failure.repeat}: {failure.contestant} failed: {failure.reason}")
    if result.standings:
        yield _projection(result)
        yield Text(f"The projection assumes {PROJECTION_ASSUMPTION}.")
    if not result.same_lengths:
        yield Text(
            "Without --lengths the model ends completions, and those of the limit, which has no seeds, elsewhere than "
            "those of the others: compare tokens/s, not times."
        )
    if len({standing.gpus for standing in result.standings}) > 1:
        used = ", ".join(f"{standing.contestant} {standing.gpus}" for standing in result.standings)
        yield Text(f"GPUs used: {used}. Ratios are per GPU.")
    if any(standing.arithmetic_share is not None for standing in result.standings):
        yield Text(f"arithmetic: {FORMULA}")
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
    table = Table("", "time s", "whole process s", "sequences/s", "tokens/s", "pipeline / it", "arithmetic")
    for name in [*(["GPU busy", "GPU memory"] if on_gpu else []), "equivalence"]:
        table.add_column(name)
    for column in table.columns[1:7]:
        column.justify = "right"
    for standing in result.standings:
        found = result.equivalence.get(standing.contestant)
        row = [
            standing.contestant,
            f"{standing.seconds.mean:.1f}",
            f"{standing.process_seconds.mean:.1f}",
            f"{standing.sequences_per_s.mean:,.1f}",
            f"{standing.tokens_per_s.mean:,.0f}",
            _ratio(standing.speedup),
            "-" if standing.arithmetic_share is None else f"{standing.arithmetic_share:.1%}",
        ]
        if on_gpu:
            row += [_number(standing.utilization_percent, "%"), _number(standing.max_memory_gib, " GiB")]
        table.add_row(*row, found["verdict"] if found else "")
    measured = {standing.contestant for standing in result.standings}
    for contestant in dict.fromkeys(failure.contestant for failure in result.failures):
        if contestant not in measured:
            table.add_row(contestant, "failed")
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
