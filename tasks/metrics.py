"""The numbers that researchers read: rewards, sampling, truncation and lengths, per arm and overall."""

from dataclasses import dataclass

import polars as pl

from tasks.arm_contrasts import ArmContrast, contrast_arms
from tasks.intervals import Interval, mean_reward_interval
from tasks.paired_statistics import CORRECT_ABOVE
from tasks.sampling_metrics import PassAtK, maj_at_k, pass_at_k, zero_variance_share

UNREADABLE_METHODS = ("none", "ambiguous")
"""Extraction methods of a completion whose answer could not be read although nothing cut it."""
_COLUMNS = (
    "example_id",
    "arm_id",
    "reward",
    "extracted_answer",
    "extraction_method",
    "correct_flexible",
    "is_truncated",
    "num_completion_tokens",
    "is_repetitive",
    "gold_suspect",
)


@dataclass(frozen=True, kw_only=True)
class ArmMetrics:
    """Metrics of one arm, or of all (``arm_id`` None). Shares are of 1; a value that has no rows to stand on is None.

    Rewards and sampling are over the ``scored`` rollouts (those with a reward), the other shares over the
    ``rollouts - errors`` that were generated. ``maj_at_k`` has k = each group's size.
    """

    arm_id: str | None
    questions: int
    rollouts: int
    errors: int
    scored: int
    mean_reward: float | None
    mean_reward_interval: Interval | None
    mean_reward_without_suspects: float | None
    """The same over the questions whose ground truth is not suspect; None where no ground truth is."""
    pass_at_1: float | None
    pass_at_k: tuple[PassAtK, ...]
    maj_at_k: float | None
    zero_variance_share: float | None
    truncation_rate: float | None
    extraction_failure_rate: float | None
    """Share of ``none`` and ``ambiguous``; truncated completions are counted in ``truncation_rate``."""
    flexible_accuracy: float | None
    """Share whose last number is right, whatever its form."""
    strict_flexible_gap: float | None
    """``flexible_accuracy`` minus the share that is correct: how much right work is lost to its form."""
    mean_completion_tokens: float | None
    mean_completion_tokens_terminated: float | None
    """The same over completions that were not truncated."""
    repetition_rate: float | None


@dataclass(frozen=True, kw_only=True)
class RunMetrics:
    """Overall, per arm by name, and every pair of arms; JSON-ready through ``dataclasses.asdict``."""

    overall: ArmMetrics
    arms: tuple[ArmMetrics, ...]
    contrasts: tuple[ArmContrast, ...]


def run_metrics(rows: pl.DataFrame, *, seed: int = 0) -> RunMetrics:
    """Metrics of scored rollouts.

    ``rows`` has ``example_id``, ``arm_id``, ``reward`` (null for an error), ``extracted_answer``,
    ``extraction_method``, ``correct_flexible``, ``is_truncated``, ``num_completion_tokens``, and may have
    ``is_repetitive`` (without it repetition is None) and ``gold_suspect`` (without it no ground truth is suspect). The
    same seed gives the same intervals and p values.
    """
    if "gold_suspect" not in rows.columns:
        rows = rows.with_columns(gold_suspect=pl.lit(False))
    if "is_repetitive" not in rows.columns:
        rows = rows.with_columns(is_repetitive=pl.lit(None, pl.Boolean))
    rows = rows.select(_COLUMNS)
    arms = rows.partition_by("arm_id", as_dict=True)
    return RunMetrics(
        overall=_metrics(None, rows, seed),
        arms=tuple(_metrics(str(arm), arms[(arm,)], seed) for arm in sorted(arm for (arm,) in arms)),
        contrasts=contrast_arms(rows.filter(pl.col("reward").is_not_null()), seed=seed),
    )


def _metrics(arm_id: str | None, rows: pl.DataFrame, seed: int) -> ArmMetrics:
    generated = rows.filter(pl.col("extraction_method") != "error")
    scored = rows.filter(pl.col("reward").is_not_null())
    passes = pass_at_k(scored)
    correct = _share(scored["reward"] > CORRECT_ABOVE)
    flexible = _share(scored["correct_flexible"])
    terminated = generated.filter(~pl.col("is_truncated"))
    return ArmMetrics(
        arm_id=arm_id,
        questions=rows["example_id"].n_unique(),
        rollouts=rows.height,
        errors=rows.height - generated.height,
        scored=scored.height,
        mean_reward=_share(scored["reward"]),
        mean_reward_interval=mean_reward_interval(scored, seed=seed),
        mean_reward_without_suspects=_share(scored.filter(~pl.col("gold_suspect"))["reward"])
        if scored["gold_suspect"].any()
        else None,
        pass_at_1=passes[0].value if passes else None,
        pass_at_k=passes,
        maj_at_k=maj_at_k(scored),
        zero_variance_share=zero_variance_share(scored),
        truncation_rate=_share(generated["is_truncated"]),
        extraction_failure_rate=_share(generated["extraction_method"].is_in(UNREADABLE_METHODS)),
        flexible_accuracy=flexible,
        strict_flexible_gap=None if flexible is None or correct is None else flexible - correct,
        mean_completion_tokens=_share(generated["num_completion_tokens"]),
        mean_completion_tokens_terminated=_share(terminated["num_completion_tokens"]),
        repetition_rate=_share(generated["is_repetitive"]),
    )


def _share(values: pl.Series) -> float | None:
    present = values.drop_nulls().cast(pl.Float64)
    return None if present.is_empty() else float(present.sum()) / len(present)
