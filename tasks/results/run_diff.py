"""Finds the rollouts that are right in one run and wrong in another, and shows them on a terminal."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from tasks.comparison.paired_statistics import Flips, count_flips, lost_and_won
from tasks.errors import ConfigError
from tasks.plain_text import one_line, visible
from tasks.records import OWN_SCORES, ROLLOUT_KEY
from tasks.results.group_pass_rates import wave_plan_of
from tasks.results.scored_rollouts import scored_shards
from tasks.storage.run_files import scan_shards
from tasks.storage.score_sets import right_at

_COLUMNS = [*ROLLOUT_KEY, "ground_truth", "reward", "extracted_answer", "error"]


@dataclass(frozen=True, kw_only=True)
class Flip:
    """One rollout that is right in only one of the runs."""

    example_id: str
    arm_id: str
    sample_index: int
    won: bool
    """Whether only the second run is right."""
    ground_truth: str
    first_answer: str | None
    second_answer: str | None
    first_completion: str
    second_completion: str


@dataclass(frozen=True, kw_only=True)
class ArmFlips:
    """The flips of one arm."""

    arm_id: str
    rollouts: int
    lost: int
    """Rollouts that are right only in the first run."""
    won: int
    """Rollouts that are right only in the second run."""


@dataclass(frozen=True, kw_only=True)
class RunDiff:
    """The comparison of two runs over the rollouts that both have scored."""

    first: str
    second: str
    first_mean: float
    second_mean: float
    flips: Flips
    arms: tuple[ArmFlips, ...]
    first_only: int
    """Rollouts scored only in the first run."""
    second_only: int
    """Rollouts scored only in the second run."""
    examples: tuple[Flip, ...]
    """The first flips, in the order of the second run."""


def diff_runs(
    first: Path, second: Path, *, most: int = 10, arm: str | None = None, scores: tuple[str, str] = (OWN_SCORES,) * 2
) -> RunDiff:
    """Compare the rewards of two scored runs over the same questions. At most ``most`` flips become examples.

    Of a run whose groups stopped by a rule, the first wave counts.

    ``arm`` restricts the comparison to one arm. ``scores`` are the folders of the scores. The first run says from which
    reward on a rollout is right. Raises ConfigError when the runs share no scored rollout, or when equal ids stand for
    different questions.
    """
    sides = [_scored(run, arm, folder) for run, folder in zip((first, second), scores, strict=True)]
    right = right_at(first, scores[0])
    pairs = sides[1].join(sides[0], on=ROLLOUT_KEY, how="inner", suffix="_first", maintain_order="left")
    if pairs.is_empty():
        raise ConfigError(
            f"{first.name} and {second.name} share no scored rollout: no ({', '.join(ROLLOUT_KEY)}) is in both. "
            "Compare runs over the same questions and arms"
        )
    _check_questions(first, second, pairs)
    pairs = pairs.rename(
        {
            "reward_first": "base_reward",
            "reward": "cand_reward",
            "extracted_answer_first": "base_answer",
            "extracted_answer": "cand_answer",
        }
    ).with_columns(lost_and_won(right))
    arms = pairs.group_by("arm_id", maintain_order=True).agg(
        pl.len().alias("rollouts"), pl.col("lost").sum(), pl.col("won").sum()
    )
    flipped = pairs.filter(pl.col("lost") | pl.col("won")).head(most)
    return RunDiff(
        first=first.name,
        second=second.name,
        first_mean=float(pairs["base_reward"].cast(pl.Float64).sum()) / pairs.height,
        second_mean=float(pairs["cand_reward"].cast(pl.Float64).sum()) / pairs.height,
        flips=count_flips(pairs, right),
        arms=tuple(ArmFlips(**row) for row in arms.iter_rows(named=True)),
        first_only=sides[0].height - pairs.height,
        second_only=sides[1].height - pairs.height,
        examples=tuple(_flips(first, second, flipped)),
    )


def _scored(run_dir: Path, arm: str | None, scores: str) -> pl.DataFrame:
    where = pl.col("reward").is_not_null()
    plan = wave_plan_of(run_dir)
    if plan.rule is not None:
        # whether a group has a later sample depends on the rewards of those before
        where &= pl.col("sample_index") < plan.ends[0]
    if arm is not None:
        where &= pl.col("arm_id") == arm
    return pl.concat([frame for _, frame in scored_shards(run_dir, _COLUMNS, where=where, scores=scores)])


def _check_questions(first: Path, second: Path, pairs: pl.DataFrame) -> None:
    """Raise ConfigError when an id of ``pairs`` has another ground truth or another question in each run."""
    truths = pairs.select("example_id", "ground_truth", "ground_truth_first").unique(maintain_order=True)
    # texts of many questions need memory, and 64-bit hashes of one process collide with probability 2^-64 per pair
    sides = [
        scan_shards(run, "questions").select("example_id", pl.col("question").hash()).collect()
        for run in (first, second)
    ]
    questions = truths.join(sides[1], on="example_id", maintain_order="left").join(
        sides[0], on="example_id", suffix="_first", maintain_order="left"
    )
    for name, what in (("ground_truth", "another ground truth"), ("question", "another text")):
        other = questions.filter(pl.col(name) != pl.col(f"{name}_first"))
        if other.height:
            raise ConfigError(
                f"{other.height} of {truths.height} ids that {first.name} and {second.name} share stand for questions "
                f"with {what}, such as {other['example_id'][0]!r}. Compare runs over the same dataset"
            )


def _flips(first: Path, second: Path, flipped: pl.DataFrame) -> Iterator[Flip]:
    texts = [_completions(run, flipped.select(ROLLOUT_KEY)) for run in (first, second)]
    for row in flipped.iter_rows(named=True):
        key = tuple(row[name] for name in ROLLOUT_KEY)
        yield Flip(
            example_id=row["example_id"],
            arm_id=row["arm_id"],
            sample_index=row["sample_index"],
            won=row["won"],
            ground_truth=row["ground_truth"],
            first_answer=row["base_answer"],
            second_answer=row["cand_answer"],
            first_completion=texts[0][key],
            second_completion=texts[1][key],
        )


def _completions(run_dir: Path, keys: pl.DataFrame) -> dict[tuple[Any, ...], str]:
    rollouts = scan_shards(run_dir, "rollouts")
    wanted = rollouts.join(keys.lazy(), on=ROLLOUT_KEY, how="semi").select(*ROLLOUT_KEY, "completion")
    return {row[:-1]: row[-1] for row in wanted.collect().iter_rows()}


def render_diff(diff: RunDiff) -> RenderableType:
    """Return the counts, the flips per arm, and the listed flips with both texts."""
    flips = diff.flips
    summary = Text(
        f"{one_line(diff.first, 300)} (A) and {one_line(diff.second, 300)} (B): {flips.rollouts:,} rollouts scored in "
        f"both; mean reward {diff.first_mean:.3f} and {diff.second_mean:.3f}\n"
        f"right only in A {flips.correct_only_in_baseline:,}, right only in B {flips.correct_only_in_candidate:,} "
        f"(clustered McNemar p = {flips.clustered_p:.3g}); another answer read {flips.answers_changed:,}; without a "
        f"scored partner {diff.first_only:,} and {diff.second_only:,}"
    )
    table = Table("arm", title="Flips per arm", title_justify="left")
    for name in ("rollouts", "right only in A", "right only in B"):
        table.add_column(name, justify="right")
    for arm in diff.arms:
        table.add_row(one_line(arm.arm_id, 120), f"{arm.rollouts:,}", f"{arm.lost:,}", f"{arm.won:,}")
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
