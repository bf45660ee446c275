"""Computes a run's metrics: rewards, sampling, truncation and lengths, per arm and over all arms."""

from dataclasses import dataclass

import polars as pl

from tasks.results.arm_contrasts import ArmContrast, contrast_arms
from tasks.results.reward_interval import Interval, mean_reward_interval
from tasks.results.sampling_metrics import GROUP, PassAtK, maj_at_k, pass_at_k, zero_variance_share
from tasks.scoring.score import RIGHT_AT, is_right

UNREADABLE_METHODS = ("none", "ambiguous")
"""Extraction methods of a completion that was not truncated and in which no answer was found."""
PHRASE_CHARS = 32
OCCURRENCES = 4
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
_STOPPED_COLUMNS = ("weight", "in_first_wave")


@dataclass(frozen=True, kw_only=True)
class ArmMetrics:
    """Metrics of one arm or of all arms. Shares are between 0 and 1; a metric without rows is None.

    Rewards and sampling metrics are over the ``scored`` rollouts; truncation, extraction, lengths and repetition over
    the ``rollouts - errors`` that were generated. Under a stopping rule all means are over groups, each by its
    unbiased estimate: see ``group_pass_rates.weigh``.
    """

    arm_id: str | None
    """None for all arms together."""
    questions: int
    rollouts: int
    errors: int
    """Rollouts without a completion."""
    scored: int
    """Rollouts with a reward."""
    mean_reward: float | None
    mean_reward_interval: Interval | None
    mean_reward_without_suspects: float | None
    """Mean reward over the questions whose ground truth is not suspect; None when none is suspect."""
    pass_at_1: float | None
    """Of ``pass_at_k`` the first, and so over the full groups alone; ``mean_reward`` is over all rollouts."""
    pass_at_k: tuple[PassAtK, ...]
    """By rising k, the first with k = 1. Empty when fewer than half of the groups are full. Under a stopping rule it
    and ``maj_at_k`` are over the first wave, which every group has."""
    maj_at_k: float | None
    """Share of the full groups whose majority answer is correct. k is their size, the last of ``pass_at_k``. None where
    no rollout has an extracted answer."""
    zero_variance_share: float | None
    """Share of the groups of two or more rollouts whose rewards are all equal. Of the groups as they are: under a
    stopping rule it is no estimate for groups of another size."""
    truncation_rate: float | None
    extraction_failure_rate: float | None
    """Share of completions in UNREADABLE_METHODS: not truncated, yet no answer was found in them."""
    flexible_accuracy: float | None
    """Share of rollouts whose last number is correct, in whatever form."""
    strict_flexible_gap: float | None
    """``flexible_accuracy`` minus the share of correct rollouts: right numbers that get no reward for their form."""
    mean_completion_tokens: float | None
    mean_completion_tokens_terminated: float | None
    """Mean length of the completions that were not truncated."""
    repetition_rate: float | None
    """Share of completions that end in a loop; None when the texts were not read."""


@dataclass(frozen=True, kw_only=True)
class RunMetrics:
    """Metrics over all arms, per arm in the order of their names, and of every pair of arms."""

    overall: ArmMetrics
    arms: tuple[ArmMetrics, ...]
    contrasts: tuple[ArmContrast, ...]


def run_metrics(rows: pl.DataFrame, *, seed: int = 0, right_at: float = RIGHT_AT) -> RunMetrics:
    """Return the metrics of ``rows``, one row per rollout. The same seed gives the same intervals and p values.

    A rollout with a reward of at least ``right_at`` is right. ``rows`` has the columns of _COLUMNS; ``reward`` is null
    for an error row. Two may be missing: without
    ``is_repetitive`` the repetition rate is None, without ``gold_suspect`` no ground truth is suspect. Those of a run
    with a stopping rule have ``weight`` and ``in_first_wave`` too.
    """
    if "gold_suspect" not in rows.columns:
        rows = rows.with_columns(gold_suspect=pl.lit(False))
    if "is_repetitive" not in rows.columns:
        rows = rows.with_columns(is_repetitive=pl.lit(None, pl.Boolean))
    rows = rows.select(*_COLUMNS, *(name for name in _STOPPED_COLUMNS if name in rows.columns))
    arms = rows.partition_by("arm_id", as_dict=True)
    return RunMetrics(
        overall=_metrics(None, rows, seed, right_at),
        arms=tuple(_metrics(str(arm), arms[(arm,)], seed, right_at) for arm in sorted(arm for (arm,) in arms)),
        contrasts=contrast_arms(rows.filter(pl.col("reward").is_not_null()), seed=seed),
    )


def is_repetitive(completion: pl.Expr) -> pl.Expr:
    """Return whether the last PHRASE_CHARS characters of the completion occur in it at least OCCURRENCES times.

    It finds a completion that ends in a loop, after Holtzman et al. 2020, section 5.3 (https://arxiv.org/abs/1904.09751),
    who call a generation repetitive when it ends in a phrase that it has just repeated at least three times. Trailing
    white space is ignored. It finds any loop that ran OCCURRENCES times, whatever its period, and also a tail of dashes
    or zeros that is OCCURRENCES phrases long. Null for a null completion.
    """
    text = completion.cast(pl.String).str.strip_chars_end()
    phrase = text.str.tail(PHRASE_CHARS)
    is_long = text.str.len_bytes() >= PHRASE_CHARS * OCCURRENCES
    count = pl.when(is_long).then(text).str.count_matches(phrase, literal=True)
    return pl.when(text.is_not_null()).then((count >= OCCURRENCES).fill_null(False))


def _metrics(arm_id: str | None, rows: pl.DataFrame, seed: int, right_at: float) -> ArmMetrics:
    made = rows.filter(pl.col("extraction_method") != "error")
    rewarded = rows.filter(pl.col("reward").is_not_null())
    alike = rewarded.filter("in_first_wave") if "in_first_wave" in rows.columns else rewarded
    generated, scored = by_group(made), by_group(rewarded)
    passes = pass_at_k(alike, right_at)
    correct = column_mean(scored.with_columns(is_right("reward", right_at).alias("right")), "right")
    flexible = column_mean(scored, "correct_flexible")
    terminated = generated.filter(~pl.col("is_truncated"))
    return ArmMetrics(
        arm_id=arm_id,
        questions=rows["example_id"].n_unique(),
        rollouts=rows.height,
        errors=rows.height - made.height,
        scored=rewarded.height,
        mean_reward=column_mean(scored, "reward"),
        mean_reward_interval=mean_reward_interval(scored, seed=seed),
        mean_reward_without_suspects=column_mean(scored.filter(~pl.col("gold_suspect")), "reward")
        if scored["gold_suspect"].any()
        else None,
        pass_at_1=passes[0].value if passes else None,
        pass_at_k=passes,
        maj_at_k=maj_at_k(alike, right_at),
        zero_variance_share=zero_variance_share(rewarded),
        truncation_rate=column_mean(generated, "is_truncated"),
        extraction_failure_rate=column_mean(
            generated.with_columns(unread=pl.col("extraction_method").is_in(UNREADABLE_METHODS)), "unread"
        ),
        flexible_accuracy=flexible,
        strict_flexible_gap=None if flexible is None or correct is None else flexible - correct,
        mean_completion_tokens=column_mean(generated, "num_completion_tokens"),
        mean_completion_tokens_terminated=column_mean(terminated, "num_completion_tokens"),
        repetition_rate=column_mean(generated, "is_repetitive"),
    )


def by_group(rows: pl.DataFrame) -> pl.DataFrame:
    """Return ``rows`` so that the weights of each group add up to 1, where there are weights; else as they are."""
    if "weight" not in rows.columns:
        return rows
    return rows.filter(pl.col("weight") > 0).with_columns(weight=pl.col("weight") / pl.col("weight").sum().over(GROUP))


def column_mean(rows: pl.DataFrame, name: str) -> float | None:
    """Return the mean of a column as ``mean`` does, by ``weight`` where there are weights."""
    if "weight" not in rows.columns:
        return mean(rows[name])
    present = rows.select(pl.col(name).cast(pl.Float64), "weight").drop_nulls(name)
    if present.is_empty():
        return None
    # their sum is above 0, as by_group keeps no weight of 0
    weights = present["weight"].to_numpy()
    return float(present[name].to_numpy() @ weights) / float(weights.sum())


def mean(values: pl.Series) -> float | None:
    """Return the mean in float64 of the values that are not null; None when there are none."""
    present = values.drop_nulls().cast(pl.Float64)
    return None if present.is_empty() else float(present.sum()) / len(present)
