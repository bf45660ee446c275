"""Shows the ranking of a run's arms on a terminal."""

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tasks.plain_text import one_line
from tasks.results.arm_contrasts import SIGNIFICANCE
from tasks.results.arm_ranking import ArmRanking, Vote
from tasks.results.reward_interval import Interval

_LISTED = 12


def render_ranking(ranking: ArmRanking) -> RenderableType:
    """Return the ranked arms, their differences, their agreement, and the results of votes."""
    return Group(*_parts(ranking))


def _parts(ranking: ArmRanking) -> Iterator[RenderableType]:
    yield _ranking(ranking)
    yield from _differences(ranking)
    yield _agreement(ranking)
    best = ranking.arms[0]
    yield Text(
        f"best of all arms (oracle): {_vote(ranking.oracle)}\n"
        f"majority vote over arms: {_vote(ranking.majority)}\n"
        f"best single arm, {one_line(best.arm_id, 120)}: {best.mean_reward:.3f} ({_interval(best.interval)})"
    )


def _ranking(ranking: ArmRanking) -> Table:
    on_gpu = any(arm.gpu_seconds_per_correct is not None for arm in ranking.arms)
    table = Table(
        "", title=f"Arms of {one_line(ranking.run_id, 300)}", title_justify="left", box=SIMPLE_HEAD, pad_edge=False
    )
    table.add_column("arm", no_wrap=True)
    for name in ("reward", "95% interval", "correct", "tokens/correct"):
        table.add_column(name, justify="right")
    if on_gpu:
        table.add_column("GPU s/correct", justify="right")
    table.add_column("really better than")
    for arm in ranking.arms:
        row = [
            str(arm.rank),
            one_line(arm.arm_id, 120),
            f"{arm.mean_reward:.3f}",
            _interval(arm.interval),
            f"{arm.correct:,}/{arm.rollouts:,}",
            _number(arm.tokens_per_correct, 1),
        ]
        if on_gpu:
            row.append(_number(arm.gpu_seconds_per_correct, 3))
        table.add_row(*row, one_line(", ".join(arm.better_than) or "-", 2_000))
    return table


def _differences(ranking: ArmRanking) -> Iterator[RenderableType]:
    best = ranking.arms[0]
    level = [arm.arm_id for arm in ranking.arms[1:] if arm.arm_id not in best.better_than]
    if not ranking.real_differences:
        yield Text(
            f"No two arms really differ (sign-flip test by question, Holm-adjusted p < {SIGNIFICANCE} over "
            f"{len(ranking.contrasts)} pairs). More questions would tell."
        )
        return
    yield Text(
        f"{ranking.real_differences} of {len(ranking.contrasts)} pairs really differ (sign-flip test by question, "
        f"Holm-adjusted p < {SIGNIFICANCE}). Not shown to be worse than {one_line(best.arm_id, 120)}: "
        f"{one_line(', '.join(level) or 'none', 2_000)}."
    )
    table = Table("pair", title="Largest differences", title_justify="left")
    for name in ("difference", "95% interval", "adjusted p", "real"):
        table.add_column(name, justify="right")
    for item in sorted(ranking.contrasts, key=lambda item: -abs(item.mean_difference))[:_LISTED]:
        interval = "-" if item.low is None else f"{item.low:+.3f} to {item.high:+.3f}"
        table.add_row(
            one_line(f"{item.arm_id} - {item.other_arm_id}", 240),
            f"{item.mean_difference:+.3f}",
            interval,
            f"{item.p_holm:.3g}",
            "yes" if item.is_significant else "no",
        )
    yield table


def _agreement(ranking: ArmRanking) -> Table:
    table = Table("", title="Same answer to the same question, %", title_justify="left", box=SIMPLE_HEAD)
    for arm in ranking.arms:
        table.add_column(str(arm.rank), justify="right")
    for arm, row in zip(ranking.arms, ranking.agreement, strict=True):
        shares = ["-" if share is None else f"{100 * share:.0f}" for share in row]
        table.add_row(one_line(f"{arm.rank} {arm.arm_id}", 120), *shares)
    return table


def _vote(vote: Vote | None) -> str:
    return "-" if vote is None else f"{vote.accuracy:.3f} ({_interval(vote.interval)})"


def _interval(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.low:.3f}-{interval.high:.3f}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
