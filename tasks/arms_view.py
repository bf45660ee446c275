"""The comparison of a run's arms as a terminal shows it."""

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tasks.arms_experiment import LEVEL, ArmsReport, ArmStanding, Vote
from tasks.intervals import Interval

_LISTED = 12


def render_arms(report: ArmsReport) -> RenderableType:
    """The ranking, the differences that are real, agreement, and what voting gives."""
    return Group(*_parts(report))


def _parts(report: ArmsReport) -> Iterator[RenderableType]:
    yield _ranking(report)
    yield from _differences(report)
    yield _agreement(report)
    best = report.arms[0]
    yield Text(
        f"any arm right (oracle): {_vote(report.oracle)}\n"
        f"majority vote over arms: {_vote(report.majority)}\n"
        f"best single arm, {best.arm_id}: {best.mean_reward:.3f} ({_interval(best.interval)})"
    )


def _ranking(report: ArmsReport) -> Table:
    on_gpu = any(arm.gpu_seconds_per_correct is not None for arm in report.arms)
    table = Table("", title=f"Arms of {report.run_id}", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("arm", no_wrap=True)
    for name in ("reward", "95% interval", "correct", "tokens/correct"):
        table.add_column(name, justify="right")
    if on_gpu:
        table.add_column("GPU s/correct", justify="right")
    table.add_column("really better than")
    for arm in report.arms:
        row: list[str | Text] = [
            str(arm.rank),
            Text(arm.arm_id),
            f"{arm.mean_reward:.3f}",
            _interval(arm.interval),
            f"{arm.correct:,}/{arm.rollouts:,}",
            _number(arm.tokens_per_correct, 1),
        ]
        if on_gpu:
            row.append(_number(arm.gpu_seconds_per_correct, 3))
        table.add_row(*row, Text(_names(arm)))
    return table


def _differences(report: ArmsReport) -> Iterator[RenderableType]:
    best = report.arms[0]
    level = [arm.arm_id for arm in report.arms[1:] if arm.arm_id not in best.better_than]
    if not report.real_differences:
        yield Text(
            f"No difference between two arms is real at p < {LEVEL} (sign-flip test by question, Holm-adjusted over "
            f"{len(report.contrasts)} pairs): more questions would tell."
        )
        return
    yield Text(
        f"{report.real_differences} of {len(report.contrasts)} pairs really differ (sign-flip test by question, "
        f"Holm-adjusted p < {LEVEL}). Not told apart from the best, {best.arm_id}: {', '.join(level) or 'none'}."
    )
    table = Table("pair", title="Largest differences", title_justify="left")
    for name in ("difference", "95% interval", "adjusted p", "real"):
        table.add_column(name, justify="right")
    for item in sorted(report.contrasts, key=lambda item: -abs(item.mean_difference))[:_LISTED]:
        interval = "-" if item.low is None else f"{item.low:+.3f} to {item.high:+.3f}"
        table.add_row(
            Text(f"{item.arm_id} - {item.other_arm_id}"),
            f"{item.mean_difference:+.3f}",
            interval,
            f"{item.p_holm:.3g}",
            "yes" if item.p_holm < LEVEL else "no",
        )
    yield table


def _agreement(report: ArmsReport) -> Table:
    table = Table("", title="Same answer to the same question, %", title_justify="left", box=SIMPLE_HEAD)
    for arm in report.arms:
        table.add_column(str(arm.rank), justify="right")
    for arm, row in zip(report.arms, report.agreement, strict=True):
        shares = ["-" if share is None else f"{100 * share:.0f}" for share in row]
        table.add_row(Text(f"{arm.rank} {arm.arm_id}"), *shares)
    return table


def _names(arm: ArmStanding) -> str:
    return ", ".join(arm.better_than) or "-"


def _vote(vote: Vote) -> str:
    return f"{vote.accuracy:.3f} ({_interval(vote.interval)})"


def _interval(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.low:.3f}-{interval.high:.3f}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
