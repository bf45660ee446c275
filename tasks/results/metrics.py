"""The numbers that researchers read: rewards, sampling, truncation and lengths, per arm and overall."""

import math
from dataclasses import dataclass

import polars as pl

from tasks.comparison.paired_statistics import CORRECT_ABOVE
from tasks.results.reward_statistics import ArmContrast, Interval, contrast_arms, mean_reward_interval

# MERGED from @sampling_metrics: What several samples of one prompt show: pass@k, maj@k and groups
# without a learning signal.
#
# A group is the rollouts of one (example_id, arm_id), which share an identical prompt; rows without a reward are left
# out beforehand. A rollout is correct when its reward is above ``CORRECT_ABOVE``.
GROUP = ["example_id", "arm_id"]


@dataclass(frozen=True, kw_only=True)
class PassAtK:
    """Probability that one or more of ``k`` samples are correct, averaged over the groups with at least ``k``."""

    k: int
    value: float
    groups: int


def pass_at_k(scored: pl.DataFrame) -> tuple[PassAtK, ...]:
    """Pass@k for k = 1, 2, 4, ... and the group size that occurs most.

    Per group 1 - C(n - c, k) / C(n, k) with n samples, c of them correct, which is unbiased: Chen et al. 2021, section
    2.1 (https://arxiv.org/abs/2107.03374).
    """
    counts = (
        scored.group_by(GROUP)
        .agg(samples=pl.len(), correct=(pl.col("reward") > CORRECT_ABOVE).sum())
        .group_by("samples", "correct")
        .agg(groups=pl.len())
    )
    if counts.is_empty():
        return ()
    cells = list(counts.select("samples", "correct", "groups").iter_rows())
    sizes = counts.group_by("samples").agg(pl.col("groups").sum()).sort("groups", "samples")
    largest = int(sizes["samples"][-1])
    ks = sorted({1 << power for power in range(largest.bit_length()) if 1 << power <= largest} | {largest})
    results = []
    for k in ks:
        eligible = [(_pass(n, c, k), groups) for n, c, groups in cells if n >= k]
        total = sum(groups for _, groups in eligible)
        results.append(PassAtK(k=k, value=sum(value * groups for value, groups in eligible) / total, groups=total))
    return tuple(results)


def maj_at_k(scored: pl.DataFrame) -> float | None:
    """Share of groups whose most frequent extracted answer is correct, k being each group's size.

    Majority voting, or self-consistency: Wang et al. 2022 (https://arxiv.org/abs/2203.11171). A tie counts for the
    share of the tied answers that are correct; rollouts without an extracted answer do not vote, and a group without
    a vote is lost. None without groups.
    """
    votes = (
        scored.filter(pl.col("extracted_answer").is_not_null())
        .group_by(*GROUP, "extracted_answer")
        .agg(votes=pl.len(), is_correct=(pl.col("reward") > CORRECT_ABOVE).any())
    )
    groups = scored.select(GROUP).n_unique()
    if not groups:
        return None
    winners = votes.filter(pl.col("votes") == pl.col("votes").max().over(GROUP))
    credit = winners.group_by(GROUP).agg(pl.col("is_correct").mean())["is_correct"].sum()
    return float(credit) / groups


def zero_variance_share(scored: pl.DataFrame) -> float | None:
    """Share of the groups of two or more whose rewards are all equal: their advantages are 0. None without such."""
    groups = (
        scored.group_by(GROUP)
        .agg(samples=pl.len(), is_flat=pl.col("reward").min() == pl.col("reward").max())
        .filter(pl.col("samples") > 1)
    )
    return None if groups.is_empty() else float(groups["is_flat"].sum()) / groups.height


def _pass(samples: int, correct: int, k: int) -> float:
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


# END MERGED
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


# MERGED from @repetition: Degenerate repetition: a completion that ends in a loop.
#
# After Holtzman et al. 2020, section 5.3 (https://arxiv.org/abs/1904.09751), who call a generation repetitive when it
# ends in a phrase that it has just said at least three times.
PHRASE_CHARS = 32
OCCURRENCES = 4


def is_repetitive(completion: pl.Expr) -> pl.Expr:
    """Whether the last PHRASE_CHARS characters of the completion stand in it at least OCCURRENCES times.

    White space at the end does not count. Null for a null completion. A loop of any period shows as long as it turned
    OCCURRENCES times; an end of dashes or zeros shows when it fills as many phrases.
    """
    text = completion.cast(pl.String).str.strip_chars_end()
    phrase = text.str.tail(PHRASE_CHARS)
    is_long = text.str.len_bytes() >= PHRASE_CHARS * OCCURRENCES
    count = pl.when(is_long).then(text).str.count_matches(phrase, literal=True)
    return pl.when(text.is_not_null()).then((count >= OCCURRENCES).fill_null(False))
