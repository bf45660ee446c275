"""Rollouts, runs and the difference of two runs, as a terminal shows them."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from tasks.comparison.paired_statistics import CORRECT_ABOVE
from tasks.plain_text import one_line, visible
from tasks.results.arm_ranking import LEVEL, ArmsReport, ArmStanding, Vote
from tasks.results.reward_statistics import Interval
from tasks.results.run_diff import Flip, RunDiff
from tasks.results.run_list import RunSummary


def render_rollouts(rollouts: Iterable[dict[str, Any]], *, shown: int, found: int) -> RenderableType:
    """The rollouts of ``tasks.results.browse.find_rollouts``, and how many of how many they are."""
    parts = [part for rollout in rollouts for part in _rollout(rollout)]
    note = f"{found:,} rollouts" if shown == found else f"{shown:,} of {found:,} rollouts; --limit shows more"
    return Group(*parts, Text(note, style="bold"))


def outcome(rollout: dict[str, Any]) -> tuple[str, str]:
    """What a rollout came to in one word, and its colour."""
    if rollout["error"] is not None:
        return "error", "red"
    if rollout["reward"] is None:
        return "not scored", "yellow"
    return ("right", "green") if rollout["reward"] > CORRECT_ABOVE else ("wrong", "red")


def _rollout(rollout: dict[str, Any]) -> Iterator[RenderableType]:
    word, colour = outcome(rollout)
    name = f"{rollout['example_id']} · {rollout['arm_id']} · sample {rollout['sample_index']}"
    yield Rule(Text.assemble((one_line(name, 120), "bold"), "  ", (word, f"bold {colour}")), align="left")
    for message in rollout["prompt"] or ():
        yield Text.assemble((f"{message['role']}: ", "cyan"), (visible(message["content"] or ""), "dim"))
    if rollout["error"] is not None:
        yield Text.assemble(("error: ", "cyan"), visible(rollout["error"]))
    else:
        yield Text.assemble(("completion: ", "cyan"), visible(rollout["completion"] or ""))
    yield Text.assemble(("score: ", "cyan"), one_line(_score(rollout), 400))
    yield Text("")


def _score(rollout: dict[str, Any]) -> str:
    tokens = f"{rollout['num_completion_tokens']} tokens"
    ended = "cut off by max_tokens" if rollout["is_truncated"] else f"ended by {rollout['finish_reason']}"
    if rollout["error"] is not None:
        return "none"
    if rollout["reward"] is None:
        return f"none yet; ground truth {rollout['ground_truth']!r}; {tokens}, {ended}"
    return (
        f"reward {rollout['reward']:g}; read {rollout['extracted_answer']!r} ({rollout['extraction_method']}), "
        f"ground truth {rollout['ground_truth']!r}; {tokens}, {ended}"
    )


_STATE_COLOURS = {"done": "green", "running": "cyan", "interrupted": "yellow", "started": "yellow"}
_RUN_COLUMNS = (
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


def render_runs(runs: Sequence[RunSummary], *, narrow: bool = False) -> RenderableType:
    """One line per run, the run id whole; ``narrow`` leaves out what matters least."""
    columns = [
        column for column in _RUN_COLUMNS if not (narrow and column in ("questions", "changed (UTC)", "uploaded"))
    ]
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
            "size": size(run.bytes),
            "changed (UTC)": f"{run.updated:%Y-%m-%d %H:%M}",
            "uploaded": "yes" if run.uploaded else "-",
        }
        table.add_row(*(values[name] for name in columns))
    return table


def render_diff(diff: RunDiff) -> RenderableType:
    """Counts, then flips per arm, then the first flips with both texts."""
    flips = diff.flips
    summary = Text(
        f"{diff.first} (A) and {diff.second} (B): {flips.rollouts:,} rollouts scored in both; mean reward "
        f"{diff.first_mean:.3f} and {diff.second_mean:.3f}\n"
        f"right only in A {flips.correct_only_in_baseline:,}, right only in B {flips.correct_only_in_candidate:,} "
        f"(clustered McNemar p = {flips.clustered_p:.3g}); another answer read {flips.answers_changed:,}; without a "
        f"scored partner {diff.first_only:,} and {diff.second_only:,}"
    )
    table = Table("arm", title="Flips per arm", title_justify="left")
    for name in ("rollouts", "right only in A", "right only in B"):
        table.add_column(name, justify="right")
    for arm in diff.arms:
        table.add_row(Text(arm.arm_id), f"{arm.rollouts:,}", f"{arm.lost:,}", f"{arm.won:,}")
    return Group(summary, table, *(part for flip in diff.examples for part in _flip(flip)))


def size(count: int) -> str:
    """A number of bytes, for people."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def _flip(flip: Flip) -> Iterator[RenderableType]:
    name = one_line(f"{flip.example_id} · {flip.arm_id} · sample {flip.sample_index}", 120)
    word, colour = ("only B is right", "green") if flip.won else ("only A is right", "red")
    yield Rule(Text.assemble((name, "bold"), "  ", (word, f"bold {colour}")), align="left")
    yield Text.assemble(("A: ", "cyan"), visible(flip.first_completion))
    yield Text.assemble(("B: ", "cyan"), visible(flip.second_completion))
    answers = f"read {flip.first_answer!r} and {flip.second_answer!r}, ground truth {flip.ground_truth!r}"
    yield Text.assemble(("score: ", "cyan"), one_line(answers, 400))
    yield Text("")


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


# MERGED from @arms_view: The comparison of a run's arms as a terminal shows it.
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
