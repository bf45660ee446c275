"""Renders an equivalence report for a console that takes strings literally: flows.console."""

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tasks.comparison.equivalence_report import EquivalenceReport, Example
from tasks.comparison.tost import MeanInterval
from tasks.plain_text import one_line, visible

_COLOURS = {
    "bitwise": "green",
    "numerical": "green",
    "statistical": "green",
    "inconclusive": "yellow",
    "incomplete": "red",
    "different": "red",
}
_MOST_EXAMPLES = 3
_MOST_DIVERGENCES = 8


def render_equivalence(report: EquivalenceReport) -> RenderableType:
    """The verdict, then its evidence, then the worst rollouts side by side."""
    return Group(*_parts(report))


def _parts(report: EquivalenceReport) -> Iterator[RenderableType]:
    met = "met" if report.meets(report.required) else "not met"
    headline = Text.assemble(
        (report.verdict, f"bold {_COLOURS[report.verdict]}"), f"  ({report.required} was required: {met})\n"
    )
    headline.append(visible(report.reason))
    yield Panel(
        headline,
        title=Text(one_line(f"{report.candidate.run_id} against {report.baseline.run_id}", 500)),
        title_align="left",
    )
    yield _tiers(report)
    if report.tested:
        yield _table(
            "What is tested",
            ("setting", "baseline", "candidate"),
            [(item.name, str(item.baseline), str(item.candidate)) for item in report.tested],
        )
    yield _rows(report)
    yield _rewards(report)
    if report.tokens.worst:
        yield _divergences(report)
    for example in report.examples[:_MOST_EXAMPLES]:
        yield _side_by_side(example)


def _tiers(report: EquivalenceReport) -> Table:
    rows = [(tier.tier, "yes" if tier.holds else "no", tier.reason) for tier in report.tiers]
    return _table("Tiers", ("tier", "holds", "because"), rows)


def _rows(report: EquivalenceReport) -> Table:
    rows, tokens = report.rows, report.tokens
    counted = [
        ("rollouts, baseline / candidate", f"{rows.baseline} / {rows.candidate}"),
        ("stated in config.json", f"{_or_dash(rows.baseline_stated)} / {_or_dash(rows.candidate_stated)}"),
        ("scored", f"{_or_dash(rows.baseline_scored)} / {_or_dash(rows.candidate_scored)}"),
        ("the baseline is a sample of the questions", "yes" if report.baseline_is_sample else "no"),
        ("compared", f"{rows.compared} over {rows.questions_compared} questions"),
        (
            "questions only in baseline / candidate",
            f"{rows.questions_only_in_baseline} / {rows.questions_only_in_candidate}",
        ),
        ("rollouts only in baseline / candidate", f"{rows.rows_only_in_baseline} / {rows.rows_only_in_candidate}"),
        (
            "failed in both / only baseline / only candidate",
            f"{rows.failed_in_both} / {rows.failed_only_in_baseline} / {rows.failed_only_in_candidate}",
        ),
        ("lost from shared questions", str(rows.lost)),
        ("equal tokens / also equal logprobs", f"{tokens.identical} / {tokens.logprobs_equal}"),
        *((f"differ: {kind.replace('_', ' ')}", str(count)) for kind, count in tokens.kinds.items()),
    ]
    return _table("Rollouts", ("what", "count"), counted)


def _rewards(report: EquivalenceReport) -> Table:
    rewards, lengths = report.rewards, report.lengths
    table = Table("what", "baseline", "candidate", "difference", "90% interval", title="Rewards", title_justify="left")
    _measure(table, "mean reward", rewards.baseline_mean, rewards.candidate_mean, rewards.difference)
    for arm in rewards.arms:
        _measure(table, one_line(f"  {arm.arm_id}", 120), arm.baseline_mean, arm.candidate_mean, arm.difference)
    _measure(table, "completion tokens", lengths.baseline_mean, lengths.candidate_mean, lengths.difference)
    for reason in report.finish_reasons:
        table.add_row(
            one_line(f"finished by {reason.finish_reason}", 120),
            str(reason.baseline),
            str(reason.candidate),
            f"{reason.candidate - reason.baseline:+d}",
            "",
        )
    flips = rewards.flips
    table.add_row(
        "correct only in this run", str(flips.correct_only_in_baseline), str(flips.correct_only_in_candidate), "", ""
    )
    table.caption = (
        f"McNemar p = {flips.mcnemar_p:.3g}, by question p = {flips.clustered_p:.3g}; flip rate {flips.rate:.2%}"
    )
    if report.limits.floor is not None:
        table.caption += f" (noise floor {report.limits.floor.flip_rate:.2%})"
    return table


def _measure(table: Table, name: str, baseline: float, candidate: float, difference: MeanInterval) -> None:
    low, high = difference.bounds
    interval = f"[{low:+.4f}, {high:+.4f}]"
    table.add_row(name, f"{baseline:.4f}", f"{candidate:.4f}", f"{difference.mean:+.4f}", interval)


def _divergences(report: EquivalenceReport) -> Table:
    table = Table("rollout", "token", "kind", "gap", "limit", title="First divergences", title_justify="left")
    for row in report.tokens.worst[:_MOST_DIVERGENCES]:
        table.add_row(
            one_line(f"{row.example_id} {row.arm_id} {row.sample_index}", 240),
            "" if row.position is None else str(row.position),
            row.kind.replace("_", " "),
            "" if row.gap is None else f"{row.gap:.4f}",
            "" if row.limit is None else f"{row.limit:.4f}",
        )
    table.caption = (
        f"near-tie limit {report.limits.near_tie_limit:.3g} nats at temperature 1, {report.limits.source}; "
        f"{sum(report.tokens.kinds.values())} rollouts differ"
    )
    return table


def _side_by_side(example: Example) -> Table:
    title = f"{example.example_id} {example.arm_id} {example.sample_index}: {example.why}"
    table = Table("", "baseline", "candidate", title=one_line(title, 500), title_justify="left", show_lines=True)
    table.add_row("text", example.baseline_text, example.candidate_text)
    table.add_row("answer", str(example.baseline_answer), str(example.candidate_answer))
    table.add_row("reward", str(example.baseline_reward), str(example.candidate_reward))
    table.caption = f"ground truth: {example.ground_truth}"
    return table


def _or_dash(count: int | None) -> str:
    return "-" if count is None else str(count)


def _table(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Table:
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*(one_line(cell, 2_000) for cell in row))
    return table
