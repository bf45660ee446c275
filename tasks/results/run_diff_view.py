"""The difference of two runs on a terminal."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from tasks.plain_text import one_line, visible
from tasks.results.run_diff import Flip, RunDiff


def render_diff(diff: RunDiff) -> RenderableType:
    """The counts, the flips per arm, and the listed flips with both texts."""
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


def _flip(flip: Flip) -> Iterator[RenderableType]:
    name = one_line(f"{flip.example_id} · {flip.arm_id} · sample {flip.sample_index}", 120)
    word, colour = ("only B is right", "green") if flip.won else ("only A is right", "red")
    yield Rule(Text.assemble((name, "bold"), "  ", (word, f"bold {colour}")), align="left")
    yield Text.assemble(("A: ", "cyan"), visible(flip.first_completion))
    yield Text.assemble(("B: ", "cyan"), visible(flip.second_completion))
    answers = f"read {flip.first_answer!r} and {flip.second_answer!r}, ground truth {flip.ground_truth!r}"
    yield Text.assemble(("score: ", "cyan"), one_line(answers, 400))
    yield Text("")
