"""Computes the 95% confidence interval of a mean reward."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks.distributions import norm_ppf, wilson_bounds

CONFIDENCE = 0.95
RESAMPLES = 4_000
MAX_DISTINCT_CLUSTERS = 5_000
"""With more distinct clusters, the limit of the bootstrap is used: the cluster-robust normal interval."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A confidence interval: ``low`` <= mean <= ``high``."""

    low: float
    high: float
    method: str
    """``wilson``, ``cluster_bootstrap`` or ``cluster_normal``."""


def wilson_interval(successes: int, trials: int) -> Interval:
    """Return the score interval of the proportion ``successes / trials``: Wilson 1927, J. Am. Stat. Assoc. 22:209.

    ``trials`` is at least 1.
    """
    low, high = wilson_bounds(successes, trials)
    return Interval(low=low, high=high, method="wilson")


def mean_reward_interval(
    scored: pl.DataFrame, *, seed: int, most_distinct: int = MAX_DISTINCT_CLUSTERS
) -> Interval | None:
    """Return the interval of the mean of column ``reward`` (no nulls), taking the questions as a random sample.

    It is Wilson's interval when every ``example_id`` has one rollout and all rewards are 0 or 1. Otherwise it is a
    bootstrap over whole questions, because rollouts of one question are not independent (Cameron, Gelbach & Miller
    2008, Rev. Econ. Stat. 90:414), or its limit with more than ``most_distinct`` distinct clusters. It is None without
    rows, and for the bootstrap with fewer than two questions. With a column ``weight`` the mean is that of its weights,
    which are those of ``metrics.by_group``: a group counts once, by its estimate.
    """
    is_weighted = "weight" in scored.columns
    reward, weight = pl.col("reward").cast(pl.Float64), pl.col("weight") if is_weighted else pl.lit(1.0)
    clusters = scored.group_by("example_id").agg(
        # weights leave rounding errors, and equal clusters are drawn together
        total=(reward * weight).sum().round(9) if is_weighted else reward.sum(),
        rollouts=weight.sum().round(9) if is_weighted else pl.len(),
    )
    if clusters.is_empty():
        return None
    if not is_weighted and clusters["rollouts"].max() == 1 and scored["reward"].is_in([0.0, 1.0]).all():
        return wilson_interval(int(clusters["total"].sum()), clusters.height)
    if clusters.height < 2:
        return None
    # equal clusters are exchangeable: drawing how often each distinct cluster occurs is the same bootstrap
    distinct = clusters.group_by("total", "rollouts").len().sort("total", "rollouts")
    if distinct.height > most_distinct:
        return _normal_interval(clusters)
    means = _resampled_means(
        distinct["total"].to_numpy(), distinct["rollouts"].to_numpy(), distinct["len"].to_numpy(), seed
    )
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(low=float(low), high=float(high), method="cluster_bootstrap")


def _resampled_means(
    totals: npt.NDArray[np.float64], rollouts: npt.NDArray[np.uint32], copies: npt.NDArray[np.uint32], seed: int
) -> npt.NDArray[np.float64]:
    questions = int(copies.sum())
    draws = np.random.default_rng(seed).multinomial(questions, copies / questions, size=RESAMPLES)
    means: npt.NDArray[np.float64] = (draws @ totals) / (draws @ rollouts.astype(np.float64))
    return means


def _normal_interval(clusters: pl.DataFrame) -> Interval:
    totals, rollouts = clusters["total"].to_numpy(), clusters["rollouts"].to_numpy()
    mean = totals.sum() / rollouts.sum()
    # linearised ratio of two sums over clusters
    residuals = totals - mean * rollouts
    error = math.sqrt(float(residuals @ residuals) * len(totals) / (len(totals) - 1)) / float(rollouts.sum())
    half = norm_ppf((1 + CONFIDENCE) / 2) * error
    return Interval(low=float(mean - half), high=float(mean + half), method="cluster_normal")
