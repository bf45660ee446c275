"""Renders a mismatch report for a console that takes strings literally: flows.console."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tasks.comparison.importance_ratios import RATIO_BOUNDS, RatioStatistics
from tasks.comparison.mismatch_report import MismatchReport, distributions
from tasks.plain_text import one_line, visible

_SHOWN_TOKENS = 5


def render_mismatch(report: MismatchReport) -> RenderableType:
    """The verdict, the ratios, what tells the causes apart, and the worst tokens."""
    return Group(*_parts(report))


def _parts(report: MismatchReport) -> Iterator[RenderableType]:
    yield Text(visible(report.verdict), style="bold")
    yield Text(
        visible(
            f"{report.rollouts:,} of {report.eligible:,} rollouts of {report.run_id} (seed {report.seed}; left out: "
            f"{report.error_rows:,} error rows, {report.empty_completions:,} empty completions), recomputed with "
            f"{report.model} in {report.dtype} on {report.device} by {report.trainer}"
        )
    )
    yield Text(visible(f"{report.compared}. {report.direction}"))
    yield _ratios(report)
    yield Text(visible("\n".join((*report.evidence, *report.notes))))
    yield _places(report)
    yield _worst(report)


def _ratios(report: MismatchReport) -> Table:
    table = Table(
        "trainer's logprobs",
        *("k1", "k3", "ratio", "1%", "99%", "outside {} to {}".format(*RATIO_BOUNDS), "effective", "impossible"),
        title="Importance ratios per token",
        title_justify="left",
    )
    for name, row in distributions(report).items():
        table.add_row(name, *_cells(row))
    whole = report.sequences
    low, high = number(whole.log_ratio_1_percent), number(whole.log_ratio_99_percent)
    table.caption = (
        f"of whole completions: log ratio {number(whole.mean_log_ratio)}, 1% {low}, 99% {high}; effective sample "
        f"{whole.effective_sample:.1%} of {whole.rollouts:,} rollouts"
    )
    return table


def _cells(row: RatioStatistics) -> tuple[str, ...]:
    return (
        number(row.kl_k1),
        number(row.kl_k3),
        f"{row.mean_ratio:.4f}",
        f"{row.ratio_1_percent:.4f}",
        f"{row.ratio_99_percent:.4f}",
        f"{row.outside:.2%}",
        f"{row.effective_sample:.1%}",
        f"{row.impossible:,}",
    )


def _places(report: MismatchReport) -> Table:
    table = Table("where", "tokens", "mean gap", "other prompt ids", title="Gap, in nats", title_justify="left")
    for place in report.positions:
        name = "token" if place.last == place.first else "tokens"
        table.add_row(
            f"{name} {place.first}{_to(place.first, place.last)}", f"{place.tokens:,}", number(place.mean_gap), ""
        )
    for arm in report.arms:
        differ = f"{arm.prompts_differ:,} of {arm.rollouts:,}"
        table.add_row(one_line(arm.arm_id, 64), f"{arm.tokens:,}", number(arm.mean_gap), differ)
    return table


def _to(first: int, last: int | None) -> str:
    return " and later" if last is None else "" if last == first else f" to {last}"


def _worst(report: MismatchReport) -> Table:
    table = Table("rollout", "position", "before", "token", "engine", "trainer", title="Worst tokens")
    table.title_justify = "left"
    for token in report.worst[:_SHOWN_TOKENS]:
        table.add_row(
            one_line(token.rollout_id, 120),
            str(token.position),
            one_line(token.before, 60),
            one_line(repr(token.text), 40),
            f"{token.engine_logprob:.4f}",
            "cut off" if token.trainer_logprob is None else f"{token.trainer_logprob:.4f}",
        )
    return table


def number(value: float | None) -> str:
    """Return a divergence or a gap as it is shown; a dash where it is infinite."""
    return "-" if value is None else f"{value:.3g}"
