"""Compares the rewards, answers, lengths and finish reasons of paired rollouts.

The rewards decide the statistical tier. Lengths and finish reasons help a reader to explain a difference.
"""

import math
from dataclasses import dataclass

import numpy as np
import polars as pl

from tasks.comparison.tost import LEVEL, MeanInterval, mean_interval
from tasks.distributions import chi2_sf, sign_test_p, t_ppf
from tasks.scoring.score import RIGHT_AT, is_right


@dataclass(frozen=True, kw_only=True)
class Flips:
    """Counts the rollouts that are correct in one run alone.

    The p-values are not part of the verdict: a large p is no evidence that the runs are the same.
    """

    rollouts: int
    """Rollouts with a reward in both runs."""
    correct_only_in_baseline: int
    """Rollouts that are correct in the baseline alone."""
    correct_only_in_candidate: int
    """Rollouts that are correct in the candidate alone."""
    answers_changed: int
    """Rollouts with different extracted answers, correct or not."""
    mcnemar_p: float
    """p of the exact two-sided McNemar test (1947, Psychometrika 12:153), which treats rollouts as independent."""
    clustered_p: float
    """p of McNemar's test for clusters (Durkalski et al. 2003, Stat. Med. 22:2417). The rollouts of a question are a
    cluster, since they may flip together."""

    @property
    def rate(self) -> float:
        """Share (of 1) of the rollouts that are correct in one run alone."""
        changed = self.correct_only_in_baseline + self.correct_only_in_candidate
        return changed / self.rollouts if self.rollouts else 0.0


@dataclass(frozen=True, kw_only=True)
class ArmDifference:
    """Compares the rewards of one arm over the shared questions. It is not part of the verdict."""

    arm_id: str
    """Id of the arm."""
    baseline_mean: float
    """Mean reward of the baseline."""
    candidate_mean: float
    """Mean reward of the candidate."""
    difference: MeanInterval
    """Difference of the mean rewards."""


@dataclass(frozen=True, kw_only=True)
class RewardComparison:
    """Compares the rewards of the rollouts that have one in both runs. In means, every question has equal weight."""

    rollouts: int
    """Rollouts with a reward in both runs."""
    baseline_mean: float
    """Mean reward of the baseline."""
    candidate_mean: float
    """Mean reward of the candidate."""
    reward_range: float
    """Largest minus smallest reward of both runs, at least 1."""
    difference: MeanInterval
    """Difference of the mean rewards."""
    arms: tuple[ArmDifference, ...]
    """One entry per arm, by id."""
    flips: Flips
    """The rollouts that are correct in one run alone."""


@dataclass(frozen=True, kw_only=True)
class LengthComparison:
    """Compares the completion lengths. In means, every question has equal weight."""

    baseline_mean: float
    """Mean length in the baseline, in tokens."""
    candidate_mean: float
    """Mean length in the candidate, in tokens."""
    difference: MeanInterval
    """Difference of the mean lengths in tokens, with Student's interval over questions."""


@dataclass(frozen=True, kw_only=True)
class FinishReasonCount:
    """Counts one finish reason over the rollouts that succeeded in both runs."""

    finish_reason: str
    """The finish reason; "(none)" for rollouts without one."""
    baseline: int
    """Rollouts with this finish reason in the baseline."""
    candidate: int
    """Rollouts with this finish reason in the candidate."""
    both: int
    """Rollouts with this finish reason in both runs."""


def compare_rewards(pairs: pl.DataFrame, *, seed: int, right_at: float = RIGHT_AT) -> RewardComparison:
    """The comparison of the rewards in ``Pairing.frame``; the same seed gives the same intervals."""
    scored = _scored(pairs)
    rewards = pl.concat([scored["base_reward"], scored["cand_reward"]])
    extent = float(rewards.max() or 0.0) - float(rewards.min() or 0.0)  # type: ignore[arg-type]
    overall = _by_question(scored)
    arms = [
        ArmDifference(
            arm_id=str(arm_id),
            baseline_mean=_mean(part["base"]),
            candidate_mean=_mean(part["cand"]),
            difference=mean_interval(part["difference"].to_numpy(), seed=seed),
        )
        for (arm_id,), part in _by_question(scored, "arm_id").partition_by("arm_id", as_dict=True).items()
    ]
    return RewardComparison(
        rollouts=scored.height,
        baseline_mean=_mean(overall["base"]),
        candidate_mean=_mean(overall["cand"]),
        reward_range=max(1.0, extent),
        difference=mean_interval(overall["difference"].to_numpy(), seed=seed),
        arms=tuple(arms),
        flips=count_flips(pairs, right_at),
    )


def lost_and_won(right_at: float) -> tuple[pl.Expr, pl.Expr]:
    """Return whether a paired rollout is correct in the baseline alone, and whether it is in the candidate alone.

    Correct is a reward of at least ``right_at``.
    """
    first, second = is_right("base_reward", right_at), is_right("cand_reward", right_at)
    return (first & ~second).alias("lost"), (~first & second).alias("won")


def count_flips(pairs: pl.DataFrame, right_at: float = RIGHT_AT) -> Flips:
    """The rollouts of ``Pairing.frame`` that changed between correct, from a reward of ``right_at`` on, and wrong."""
    scored = _scored(pairs).select(
        "example_id",
        *lost_and_won(right_at),
        changed=pl.col("base_answer") != pl.col("cand_answer"),
    )
    lost, won, changed = (int(scored[name].sum()) for name in ("lost", "won", "changed"))
    questions = scored.group_by("example_id", maintain_order=True).agg(
        net=pl.col("won").cast(pl.Float64).mean() - pl.col("lost").cast(pl.Float64).mean()
    )
    net, squares = questions.select(pl.col("net").sum(), squares=pl.col("net").pow(2).sum()).row(0)
    return Flips(
        rollouts=scored.height,
        correct_only_in_baseline=lost,
        correct_only_in_candidate=won,
        answers_changed=changed,
        mcnemar_p=sign_test_p(lost, lost + won),
        clustered_p=chi2_sf(net**2 / squares, 1) if squares else 1.0,
    )


def compare_lengths(pairs: pl.DataFrame) -> LengthComparison:
    """The comparison of the completion lengths in ``Pairing.frame``."""
    questions = _means(pairs.select("example_id", base=pl.col("base_tokens"), cand=pl.col("cand_tokens")), "example_id")
    return LengthComparison(
        baseline_mean=_mean(questions["base"]),
        candidate_mean=_mean(questions["cand"]),
        difference=_student_interval(questions["difference"]),
    )


def compare_finish_reasons(pairs: pl.DataFrame) -> tuple[FinishReasonCount, ...]:
    """The counts of each finish reason in ``Pairing.frame``, by name."""
    table = pairs.group_by(
        base=pl.col("base_finish_reason").fill_null("(none)"), cand=pl.col("cand_finish_reason").fill_null("(none)")
    ).len()
    names = sorted({*table["base"], *table["cand"]})
    return tuple(
        FinishReasonCount(
            finish_reason=name,
            baseline=int(table.filter(base=name)["len"].sum()),
            candidate=int(table.filter(cand=name)["len"].sum()),
            both=int(table.filter(base=name, cand=name)["len"].sum()),
        )
        for name in names
    )


def _student_interval(differences: pl.Series) -> MeanInterval:
    mean, n = _mean(differences), differences.len()
    if n < 2:
        return MeanInterval(mean=mean, low=None, high=None, standard_deviation=0.0, n=n)
    deviation = float(np.std(differences.to_numpy(), ddof=1))
    half = t_ppf(1 - LEVEL, n - 1) * deviation / math.sqrt(n)
    return MeanInterval(mean=mean, low=mean - half, high=mean + half, standard_deviation=deviation, n=n)


def _scored(pairs: pl.DataFrame) -> pl.DataFrame:
    return pairs.filter(pl.col("base_reward").is_not_null() & pl.col("cand_reward").is_not_null())


def _by_question(scored: pl.DataFrame, *more: str) -> pl.DataFrame:
    columns = scored.select(
        "example_id", *more, base=pl.col("base_reward").cast(pl.Float64), cand=pl.col("cand_reward").cast(pl.Float64)
    )
    return _means(columns, "example_id", *more)


def _means(columns: pl.DataFrame, *by: str) -> pl.DataFrame:
    means = columns.group_by(by).agg(pl.col("base", "cand").mean())
    return means.with_columns(difference=pl.col("cand") - pl.col("base")).sort(by)


def _mean(values: pl.Series) -> float:
    return float(values.mean() or 0.0)  # type: ignore[arg-type]
