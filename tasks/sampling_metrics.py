"""What several samples of one prompt show: pass@k, maj@k and groups without a learning signal.

A group is the rollouts of one (example_id, arm_id), which share an identical prompt; rows without a reward are left
out beforehand. A rollout is correct when its reward is above ``CORRECT_ABOVE``.
"""

import math
from dataclasses import dataclass

import polars as pl

from tasks.paired_statistics import CORRECT_ABOVE

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
