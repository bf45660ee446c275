"""Compares rewards, answers, lengths and finish reasons of paired rollouts of the candidate and the baseline."""

import math
from dataclasses import dataclass

import numpy as np
import polars as pl

from tasks.comparison.tost import LEVEL, MeanInterval, mean_interval
from tasks.distributions import chi2_sf, sign_test_p, t_ppf
from tasks.scoring.score import CORRECT_ABOVE

LOST = (pl.col("base_reward") > CORRECT_ABOVE) & (pl.col("cand_reward") <= CORRECT_ABOVE)
"""Whether a paired rollout is correct in the baseline alone."""
WON = (pl.col("base_reward") <= CORRECT_ABOVE) & (pl.col("cand_reward") > CORRECT_ABOVE)
"""Whether a paired rollout is correct in the candidate alone."""


@dataclass(frozen=True, kw_only=True)
class Flips:
    """Rollouts scored in both runs, by whether they are correct.

    ``mcnemar_p`` is the exact two-sided McNemar test (1947, Psychometrika 12:153) over rollouts, which takes them as
    independent; ``clustered_p`` is its form for clusters (Durkalski et al. 2003, Stat. Med. 22:2417), which does not:
    rollouts of a question may flip together. Neither is part of the verdict: a large p is no evidence of sameness.
    """

    rollouts: int
    correct_only_in_baseline: int
    correct_only_in_candidate: int
    answers_changed: int
    """Rollouts with another extracted answer, whether correct or not."""
    mcnemar_p: float
    clustered_p: float

    @property
    def rate(self) -> float:
        """Share of the rollouts that are correct in one run alone."""
        changed = self.correct_only_in_baseline + self.correct_only_in_candidate
        return changed / self.rollouts if self.rollouts else 0.0


@dataclass(frozen=True, kw_only=True)
class ArmDifference:
    """One arm's mean rewards over the shared questions, and their difference. Not part of the verdict."""

    arm_id: str
    baseline_mean: float
    candidate_mean: float
    difference: MeanInterval


@dataclass(frozen=True, kw_only=True)
class RewardComparison:
    """Rewards of rollouts scored in both runs; means weigh every question alike."""

    rollouts: int
    baseline_mean: float
    candidate_mean: float
    reward_range: float
    """Largest minus smallest reward seen, at least 1."""
    difference: MeanInterval
    arms: tuple[ArmDifference, ...]
    flips: Flips


@dataclass(frozen=True, kw_only=True)
class LengthComparison:
    """Completion lengths in tokens; means weigh every question alike, the interval is Student's over questions."""

    baseline_mean: float
    candidate_mean: float
    difference: MeanInterval


@dataclass(frozen=True, kw_only=True)
class FinishReasonCount:
    """How often a finish reason occurs in either run, and how often it is the same for the same rollout."""

    finish_reason: str
    baseline: int
    candidate: int
    both: int


def compare_rewards(pairs: pl.DataFrame, *, seed: int) -> RewardComparison:
    """Compare the rewards of ``Pairing.frame``; the same seed gives the same intervals."""
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
        flips=count_flips(pairs),
    )


def count_flips(pairs: pl.DataFrame) -> Flips:
    """Count how rollouts of ``Pairing.frame`` changed between correct and wrong."""
    scored = _scored(pairs).select(
        "example_id",
        lost=LOST,
        won=WON,
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
    """Compare the completion lengths of ``Pairing.frame``."""
    questions = _means(pairs.select("example_id", base=pl.col("base_tokens"), cand=pl.col("cand_tokens")), "example_id")
    return LengthComparison(
        baseline_mean=_mean(questions["base"]),
        candidate_mean=_mean(questions["cand"]),
        difference=_student_interval(questions["difference"]),
    )


def compare_finish_reasons(pairs: pl.DataFrame) -> tuple[FinishReasonCount, ...]:
    """Count the finish reasons of ``Pairing.frame``, by name."""
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
