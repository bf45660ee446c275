"""Ranks the arms of a run, as an experiment.

It finds the best arm, the significant differences, the cost of a correct rollout, and the result of voting over arms.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from tasks.errors import ConfigError
from tasks.records import OWN_SCORES, RunPaths
from tasks.results.arm_contrasts import ArmContrast
from tasks.results.metrics import run_metrics
from tasks.results.reward_interval import Interval, mean_reward_interval
from tasks.results.run_report import read_report
from tasks.results.sampling_metrics import majority_credit
from tasks.results.scored_rollouts import check_scored, load_metric_rows
from tasks.scoring.score import is_right
from tasks.storage.score_sets import right_at

_QUESTION_AND_SAMPLE = ["example_id", "sample_index"]


@dataclass(frozen=True, kw_only=True)
class ArmStanding:
    """One arm in the ranking."""

    rank: int
    """1 for the highest mean reward."""
    arm_id: str
    mean_reward: float
    interval: Interval | None
    rollouts: int
    """Rollouts with a reward."""
    correct: int
    tokens_per_correct: float | None
    """Completion tokens of all its rollouts, per correct rollout; None when no rollout is correct."""
    gpu_seconds_per_correct: float | None
    """The arm's share of GPU time, by completion tokens, per correct rollout; None when no rollout is correct, or
    without GPU telemetry."""
    better_than: tuple[str, ...]
    """Arms with a significantly lower mean reward."""
    worse_than: tuple[str, ...]
    """Arms with a significantly higher mean reward."""


@dataclass(frozen=True, kw_only=True)
class Vote:
    """The accuracy that all arms together reach."""

    accuracy: float
    interval: Interval | None


@dataclass(frozen=True, kw_only=True)
class ArmRanking:
    """The arms of a run, the best first, with their differences, agreement and votes."""

    run_id: str
    arms: tuple[ArmStanding, ...]
    contrasts: tuple[ArmContrast, ...]
    real_differences: int
    """Number of significant contrasts."""
    agreement: tuple[tuple[float | None, ...], ...]
    """In row i and column j, the share of (question, sample) pairs to which arms i and j of ``arms`` gave the same
    answer, of those to which both gave one; None without such a pair."""
    oracle: Vote
    """The best reward that any arm has for a (question, sample) pair counts, so it is no less than the best arm's."""
    majority: Vote | None
    """The most frequent answer of the arms counts; see ``majority_credit``. None where no answer was extracted."""


def rank_arms(run_dir: Path, *, seed: int = 0, scores: str = OWN_SCORES) -> ArmRanking:
    """Rank the arms of a finished run that is scored in the folder ``scores``.

    The same seed gives the same intervals and p values. Raises ConfigError when the run is not finished and scored, or
    has a single arm.
    """
    check_scored(run_dir, scores)
    paths = RunPaths(root=run_dir, scores_folder=scores)
    right = right_at(run_dir, scores)
    rows = load_metric_rows(paths)
    scored = rows.filter(pl.col("reward").is_not_null())
    if scored["arm_id"].n_unique() < 2:
        raise ConfigError(f"{run_dir.name} has {scored['arm_id'].n_unique()} scored arms; two are needed to compare")
    metrics = run_metrics(rows, seed=seed, right_at=right)
    # votes compare sample by sample, and only the first wave has the same samples of every arm
    votes = scored.filter("in_first_wave") if "in_first_wave" in scored.columns else scored
    has_answers = votes["extracted_answer"].is_not_null().any()
    significant = [contrast.better_first() for contrast in metrics.contrasts if contrast.is_significant]
    ranked = sorted(
        (arm for arm in metrics.arms if arm.mean_reward is not None),
        key=lambda arm: (-(arm.mean_reward or 0.0), arm.arm_id or ""),
    )
    costs = _costs(rows, run_dir, right)
    standings = tuple(
        ArmStanding(
            rank=rank,
            arm_id=str(arm.arm_id),
            mean_reward=arm.mean_reward or 0.0,
            interval=arm.mean_reward_interval,
            rollouts=arm.scored,
            **costs[str(arm.arm_id)],  # type: ignore[arg-type]
            better_than=tuple(item.other_arm_id for item in significant if item.arm_id == arm.arm_id),
            worse_than=tuple(item.arm_id for item in significant if item.other_arm_id == arm.arm_id),
        )
        for rank, arm in enumerate(ranked, start=1)
    )
    return ArmRanking(
        run_id=run_dir.resolve().name,
        arms=standings,
        contrasts=metrics.contrasts,
        real_differences=len(significant),
        agreement=agreement(votes, [standing.arm_id for standing in standings]),
        oracle=_vote(oracle_credit(votes), seed),
        majority=_vote(majority_credit(votes, _QUESTION_AND_SAMPLE, right), seed) if has_answers else None,
    )


def agreement(scored: pl.DataFrame, arms: list[str]) -> tuple[tuple[float | None, ...], ...]:
    """Return the share of (question, sample) pairs with the same extracted answer, for each pair of ``arms``.

    Only pairs for which both arms have an answer count; None where there are none, as with a scorer of rewards alone.
    """
    answers = scored.pivot(
        on="arm_id", index=_QUESTION_AND_SAMPLE, values="extracted_answer", aggregate_function="first"
    )
    return tuple(tuple(_same(answers[first], answers[second]) for second in arms) for first in arms)


def oracle_credit(scored: pl.DataFrame) -> pl.DataFrame:
    """Return one row per (question, sample) pair, whose ``reward`` is the best of the arms."""
    return scored.group_by(_QUESTION_AND_SAMPLE, maintain_order=True).agg(
        reward=pl.col("reward").max().cast(pl.Float64)
    )


def _vote(credit: pl.DataFrame, seed: int) -> Vote:
    return Vote(
        accuracy=float(credit["reward"].sum()) / credit.height, interval=mean_reward_interval(credit, seed=seed)
    )


def _same(first: pl.Series, second: pl.Series) -> float | None:
    share = (first == second).mean()
    return None if share is None else float(share)  # type: ignore[arg-type]  # the mean of a Boolean series


def _costs(rows: pl.DataFrame, run_dir: Path, right: float) -> dict[str, dict[str, float | int | None]]:
    report = read_report(run_dir)
    gpu_seconds = report.telemetry.gpu_seconds if report and report.telemetry else None
    table = rows.group_by("arm_id").agg(
        tokens=pl.col("num_completion_tokens").sum(), correct=is_right("reward", right).sum()
    )
    total = int(table["tokens"].sum()) or math.inf
    return {
        row["arm_id"]: {
            "correct": row["correct"],
            "tokens_per_correct": row["tokens"] / row["correct"] if row["correct"] else None,
            "gpu_seconds_per_correct": gpu_seconds * row["tokens"] / total / row["correct"]
            if gpu_seconds and row["correct"]
            else None,
        }
        for row in table.iter_rows(named=True)
    }
