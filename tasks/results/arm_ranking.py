"""Arms as an experiment: which is best, which differences are real, what a correct rollout costs, and what voting over
the arms would give."""

import math
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from tasks.comparison.paired_statistics import CORRECT_ABOVE
from tasks.errors import ConfigError
from tasks.files import read_json
from tasks.records import RunPaths
from tasks.results.finished_run import check_scored
from tasks.results.metrics import run_metrics
from tasks.results.reward_statistics import ArmContrast, Interval, mean_reward_interval
from tasks.results.summary import load_scored

LEVEL = 0.05
"""Holm-adjusted p below which a difference counts as real."""

_VOTE = ["example_id", "sample_index"]


@dataclass(frozen=True, kw_only=True)
class ArmStanding:
    """One arm. ``tokens_per_correct`` counts completion tokens of all its rollouts over its correct ones.

    ``gpu_seconds_per_correct`` shares the run's GPU time among arms by completion tokens; None without GPU telemetry.
    Both are None when no rollout is correct. ``better_than`` and ``worse_than`` list arms from which it really differs.
    """

    rank: int
    arm_id: str
    mean_reward: float
    interval: Interval | None
    rollouts: int
    correct: int
    tokens_per_correct: float | None
    gpu_seconds_per_correct: float | None
    better_than: tuple[str, ...]
    worse_than: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Vote:
    """An accuracy over all arms together, each question answered once by every arm."""

    accuracy: float
    interval: Interval | None


@dataclass(frozen=True, kw_only=True)
class ArmsReport:
    """``agreement[i][j]`` is the share of (question, sample) pairs to which arms i and j gave the same answer, in the
    order of ``arms``; None when they share none.

    ``oracle`` counts a question as right when any arm is; ``majority`` when the most frequent answer is, a tie for the
    share of the tied answers that are right (Wang et al. 2022, https://arxiv.org/abs/2203.11171).
    """

    run_id: str
    arms: tuple[ArmStanding, ...]
    contrasts: tuple[ArmContrast, ...]
    real_differences: int
    agreement: tuple[tuple[float | None, ...], ...]
    oracle: Vote
    majority: Vote


def compare_arms(run_dir: Path, *, seed: int = 0) -> ArmsReport:
    """Compare the arms of a finished and scored run; the same seed gives the same intervals and p values.

    Raises ConfigError when the run is not finished and scored, or has a single arm.
    """
    check_scored(run_dir)
    paths = RunPaths(root=run_dir)
    rows = load_scored(paths)
    scored = rows.filter(pl.col("reward").is_not_null())
    if scored["arm_id"].n_unique() < 2:
        raise ConfigError(f"{run_dir.name} has {scored['arm_id'].n_unique()} scored arms; two are needed to compare")
    metrics = run_metrics(rows, seed=seed)
    real = [contrast for contrast in metrics.contrasts if contrast.p_holm < LEVEL]
    ranked = sorted(
        (arm for arm in metrics.arms if arm.mean_reward is not None),
        key=lambda arm: (-(arm.mean_reward or 0.0), arm.arm_id or ""),
    )
    costs = _costs(rows, paths)
    standings = tuple(
        ArmStanding(
            rank=rank,
            arm_id=str(arm.arm_id),
            mean_reward=arm.mean_reward or 0.0,
            interval=arm.mean_reward_interval,
            rollouts=arm.scored,
            **costs[str(arm.arm_id)],  # type: ignore[arg-type]
            better_than=tuple(_beaten(real, str(arm.arm_id))),
            worse_than=tuple(_beating(real, str(arm.arm_id))),
        )
        for rank, arm in enumerate(ranked, start=1)
    )
    return ArmsReport(
        run_id=run_dir.resolve().name,
        arms=standings,
        contrasts=metrics.contrasts,
        real_differences=len(real),
        agreement=agreement(scored, [standing.arm_id for standing in standings]),
        oracle=_vote(oracle_credit(scored), seed),
        majority=_vote(majority_credit(scored), seed),
    )


def agreement(scored: pl.DataFrame, arms: list[str]) -> tuple[tuple[float | None, ...], ...]:
    """Share of (question, sample) pairs with the same extracted answer; no answer agrees with nothing."""
    answers = scored.pivot(on="arm_id", index=_VOTE, values="extracted_answer", aggregate_function="first")
    answered = scored.with_columns(there=pl.lit(True)).pivot(
        on="arm_id", index=_VOTE, values="there", aggregate_function="first"
    )
    return tuple(
        tuple(_same(answers[first], answers[second], answered[first] & answered[second]) for second in arms)
        for first in arms
    )


def oracle_credit(scored: pl.DataFrame) -> pl.DataFrame:
    """``reward`` 1 per (question, sample) that any arm has right, else 0."""
    return scored.group_by(_VOTE, maintain_order=True).agg(
        reward=(pl.col("reward") > CORRECT_ABOVE).any().cast(pl.Float64)
    )


def majority_credit(scored: pl.DataFrame) -> pl.DataFrame:
    """``reward`` per (question, sample): the share of its most frequent answers that are right, 0 without answers."""
    votes = (
        scored.filter(pl.col("extracted_answer").is_not_null())
        .group_by(*_VOTE, "extracted_answer")
        .agg(votes=pl.len(), is_correct=(pl.col("reward") > CORRECT_ABOVE).any())
    )
    winners = votes.filter(pl.col("votes") == pl.col("votes").max().over(_VOTE))
    credit = winners.group_by(_VOTE).agg(reward=pl.col("is_correct").mean())
    return (
        scored.select(_VOTE)
        .unique(maintain_order=True)
        .join(credit, on=_VOTE, how="left", maintain_order="left")
        .with_columns(pl.col("reward").fill_null(0.0))
    )


def _vote(credit: pl.DataFrame, seed: int) -> Vote:
    return Vote(
        accuracy=float(credit["reward"].sum()) / credit.height, interval=mean_reward_interval(credit, seed=seed)
    )


def _same(first: pl.Series, second: pl.Series, both: pl.Series) -> float | None:
    shared = int(both.sum())
    same = (first == second) & both
    return int(same.sum()) / shared if shared else None


def _costs(rows: pl.DataFrame, paths: RunPaths) -> dict[str, dict[str, float | int | None]]:
    report = read_json(paths.report)
    telemetry = (report.get("telemetry") or {}) if isinstance(report, dict) else {}
    gpu_seconds = telemetry.get("gpu_seconds")
    table = rows.group_by("arm_id").agg(
        tokens=pl.col("num_completion_tokens").sum(), correct=(pl.col("reward") > CORRECT_ABOVE).sum()
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


def _beaten(real: list[ArmContrast], arm: str) -> list[str]:
    won = [item.other_arm_id for item in real if item.arm_id == arm and item.mean_difference > 0]
    return won + [item.arm_id for item in real if item.other_arm_id == arm and item.mean_difference < 0]


def _beating(real: list[ArmContrast], arm: str) -> list[str]:
    lost = [item.other_arm_id for item in real if item.arm_id == arm and item.mean_difference < 0]
    return lost + [item.arm_id for item in real if item.other_arm_id == arm and item.mean_difference > 0]
