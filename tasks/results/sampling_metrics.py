"""Computes metrics over several samples of one prompt: pass@k, majority votes, groups without a learning signal.

A group is the rollouts of one (example_id, arm_id), which share a prompt. All functions take scored rollouts: every row
has a reward, and a rollout is correct when its reward is at least ``right_at``.

Error rows make some groups smaller. pass@k and the majority vote are over the full groups: those that have as many
samples as most groups have, or more. Over other groups for each k, pass@2 could be below pass@1. When fewer than half
of the groups are full, they do not stand for the others, and there is no number.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from tasks.scoring.score import RIGHT_AT, is_right

GROUP = ["example_id", "arm_id"]


@dataclass(frozen=True, kw_only=True)
class PassAtK:
    """The probability that at least one of ``k`` samples is correct."""

    k: int
    value: float
    """The mean over the full groups."""
    groups: int
    """Number of full groups, the same for every k. In former reports: of groups with at least ``k`` samples."""


def full_groups(scored: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of the full groups; none when fewer than half of the groups are full.

    Of two equally frequent sizes, the larger one counts.
    """
    samples = scored.group_by(GROUP).agg(samples=pl.len())["samples"]
    if samples.is_empty():
        return scored
    full = samples.value_counts(name="groups").sort("groups", "samples")["samples"].last()
    if 2 * (samples >= full).sum() < len(samples):
        return scored.clear()
    return scored.filter(pl.len().over(GROUP) >= full)


def pass_at_k(scored: pl.DataFrame, right_at: float = RIGHT_AT) -> tuple[PassAtK, ...]:
    """Return pass@k over the full groups, for every power of two up to the size of a full group, and for that size.

    The unbiased estimate of a group with n samples, c of them correct, is 1 - C(n - c, k) / C(n, k): Chen et al. 2021,
    section 2.1 (https://arxiv.org/abs/2107.03374).
    """
    counts = (
        full_groups(scored)
        .group_by(GROUP)
        .agg(samples=pl.len(), correct=is_right("reward", right_at).sum())
        .group_by("samples", "correct")
        .agg(groups=pl.len())
    )
    if counts.is_empty():
        return ()
    cells = list(counts.select("samples", "correct", "groups").iter_rows())
    size = min(samples for samples, _, _ in cells)
    total = sum(groups for _, _, groups in cells)
    ks = sorted({1 << power for power in range(size.bit_length()) if 1 << power <= size} | {size})
    return tuple(
        PassAtK(k=k, value=sum(_pass(n, c, k) * groups for n, c, groups in cells) / total, groups=total) for k in ks
    )


def maj_at_k(scored: pl.DataFrame, right_at: float = RIGHT_AT) -> float | None:
    """Return the mean credit of the majority answer over the full groups; k is their size.

    None without full groups, and where no row has an extracted answer, as with a scorer that gives only rewards.
    """
    full = full_groups(scored)
    if full["extracted_answer"].is_null().all():
        return None
    credit = majority_credit(full, GROUP, right_at)["reward"]
    return float(credit.sum()) / len(credit)


def majority_credit(scored: pl.DataFrame, group: Sequence[str], right_at: float = RIGHT_AT) -> pl.DataFrame:
    """Return one row per group. The columns ``group`` define it; ``reward`` is the credit of its majority answer.

    Majority voting, or self-consistency: Wang et al. 2022 (https://arxiv.org/abs/2203.11171). The credit is 1 when the
    most frequent extracted answer is correct and 0 when it is not; in a tie, the share of the tied answers that are
    correct. A rollout without an extracted answer does not vote, and a group without votes gets 0.
    """
    votes = (
        scored.filter(pl.col("extracted_answer").is_not_null())
        .group_by(*group, "extracted_answer")
        .agg(votes=pl.len(), is_correct=is_right("reward", right_at).any())
    )
    winners = votes.filter(pl.col("votes") == pl.col("votes").max().over(group))
    credit = winners.group_by(group).agg(reward=pl.col("is_correct").mean())
    groups = scored.select(group).unique(maintain_order=True)
    return groups.join(credit, on=group, how="left", maintain_order="left").with_columns(
        pl.col("reward").fill_null(0.0)
    )


def zero_variance_share(scored: pl.DataFrame) -> float | None:
    """Return the share of the groups of two or more rollouts whose rewards are all equal: their advantages are 0.

    None without such groups.
    """
    groups = (
        scored.group_by(GROUP)
        .agg(samples=pl.len(), is_flat=pl.col("reward").min() == pl.col("reward").max())
        .filter(pl.col("samples") > 1)
    )
    return None if groups.is_empty() else float(groups["is_flat"].sum()) / groups.height


def _pass(samples: int, correct: int, k: int) -> float:
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)
