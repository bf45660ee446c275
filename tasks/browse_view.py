"""Rollouts, runs and the difference of two runs, as a terminal shows them."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from tasks.browse_diff import Flip, RunDiff
from tasks.browse_runs import RunSummary
from tasks.paired_statistics import CORRECT_ABOVE
from tasks.plain_text import one_line, visible


def render_rollouts(rollouts: Iterable[dict[str, Any]], *, shown: int, found: int) -> RenderableType:
    """The rollouts of ``tasks.browse.find_rollouts``, and how many of how many they are."""
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
