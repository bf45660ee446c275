"""Computes metrics over several samples of one prompt: pass@k, majority votes, groups without a learning signal.

A group is the rollouts of one (example_id, arm_id), which share a prompt. All functions take scored rollouts: every row
has a reward, and a rollout is correct when its reward is above ``CORRECT_ABOVE``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from tasks.scoring.score import CORRECT_ABOVE

GROUP = ["example_id", "arm_id"]


@dataclass(frozen=True, kw_only=True)
class PassAtK:
    """The probability that at least one of ``k`` samples is correct."""

    k: int
    value: float
    """The mean over all groups of at least ``k`` samples."""
    groups: int
    """Number of these groups."""


def pass_at_k(scored: pl.DataFrame) -> tuple[PassAtK, ...]:
    """Return pass@k for every power of two up to the most frequent group size, and for that size.

    The unbiased estimate of a group with n samples, c of them correct, is 1 - C(n - c, k) / C(n, k): Chen et al. 2021,
    section 2.1 (https://arxiv.org/abs/2107.03374).
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
    by_size = counts.group_by("samples").agg(pl.col("groups").sum()).sort("groups", "samples")
    size = int(by_size["samples"][-1])
    ks = sorted({1 << power for power in range(size.bit_length()) if 1 << power <= size} | {size})
    results = []
    for k in ks:
        eligible = [(_pass(n, c, k), groups) for n, c, groups in cells if n >= k]
        total = sum(groups for _, groups in eligible)
        results.append(PassAtK(k=k, value=sum(value * groups for value, groups in eligible) / total, groups=total))
    return tuple(results)


def maj_at_k(scored: pl.DataFrame) -> float | None:
    """Return the mean credit of the majority answer over all groups; k is the group's size. None without groups."""
    credit = majority_credit(scored, GROUP)["reward"]
    return float(credit.sum()) / len(credit) if len(credit) else None


def majority_credit(scored: pl.DataFrame, group: Sequence[str]) -> pl.DataFrame:
    """Return one row per group. The columns ``group`` define it; ``reward`` is the credit of its majority answer.

    Majority voting, or self-consistency: Wang et al. 2022 (https://arxiv.org/abs/2203.11171). The credit is 1 when the
    most frequent extracted answer is correct and 0 when it is not; in a tie, the share of the tied answers that are
    correct. A rollout without an extracted answer does not vote, and a group without votes gets 0.
    """
    votes = (
        scored.filter(pl.col("extracted_answer").is_not_null())
        .group_by(*group, "extracted_answer")
        .agg(votes=pl.len(), is_correct=(pl.col("reward") > CORRECT_ABOVE).any())
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
