"""Confidence intervals of a mean reward, at 95%."""

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks.distributions import norm_cdf, norm_ppf, t_ppf

CONFIDENCE = 0.95
RESAMPLES = 4_000
MAX_DISTINCT_CLUSTERS = 5_000
"""With more distinct clusters than this, the bootstrap's limit (the cluster-robust normal interval) takes its place."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """``low`` <= mean <= ``high``; ``method`` is ``wilson``, ``cluster_bootstrap`` or ``cluster_normal``."""

    low: float
    high: float
    method: str


def wilson_interval(successes: int, trials: int) -> Interval:
    """Score interval of a proportion: Wilson 1927, J. Am. Stat. Assoc. 22:209. ``trials`` is at least 1."""
    z = norm_ppf((1 + CONFIDENCE) / 2)
    share = successes / trials
    scale = 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return Interval(low=max(0.0, centre - half), high=min(1.0, centre + half), method="wilson")


def mean_reward_interval(scored: pl.DataFrame, *, seed: int) -> Interval | None:
    """Interval of the mean of ``reward`` (no nulls) over rollouts whose questions are drawn at random.

    Wilson's when every ``example_id`` has one rollout and rewards are 0 or 1; else a bootstrap that draws whole
    questions, since rollouts of one question are not independent (Cameron, Gelbach & Miller 2008, Rev. Econ. Stat.
    90:414). None with fewer than two questions and no proportion.
    """
    clusters = scored.group_by("example_id").agg(total=pl.col("reward").cast(pl.Float64).sum(), rollouts=pl.len())
    if clusters.is_empty():
        return None
    if clusters["rollouts"].max() == 1 and scored["reward"].is_in([0.0, 1.0]).all():
        return wilson_interval(int(clusters["total"].sum()), clusters.height)
    if clusters.height < 2:
        return None
    # equal clusters are exchangeable, so drawing how often each distinct one occurs is the same bootstrap
    distinct = clusters.group_by("total", "rollouts").len().sort("total", "rollouts")
    if distinct.height > MAX_DISTINCT_CLUSTERS:
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


# MERGED from @arm_contrasts: How arms differ in mean reward, question by question.
#
# Per pair of arms: the mean over their common questions of (mean reward under one arm - mean reward under the other),
# its 95% t interval, and the two-sided sign-flip permutation test of a difference that is symmetric
# about 0 (Fisher 1935,
# The Design of Experiments, section 21), whose p is (extreme + 1) / (flips + 1) (Phipson & Smyth
# 2010, Stat. Appl. Genet.
# Mol. Biol. 9:39). Over all pairs the p values are adjusted by Holm (1979, Scand. J. Stat. 6:65).
FLIPS = 10_000
MAX_DISTINCT = 2_000
"""With more distinct differences than this the test statistic is taken as normal, which is its limit."""

_TOLERANCE = 1e-9


@dataclass(frozen=True, kw_only=True)
class ArmContrast:
    """Mean reward of ``arm_id`` minus that of ``other_arm_id``; ``p_holm`` is adjusted over all pairs of the report."""

    arm_id: str
    other_arm_id: str
    questions: int
    mean_difference: float
    low: float | None
    high: float | None
    p_value: float
    p_holm: float


def contrast_arms(scored: pl.DataFrame, *, seed: int) -> tuple[ArmContrast, ...]:
    """One contrast per pair of arms that share a question, by arm name; rows have a ``reward``, none null."""
    means = scored.group_by("example_id", "arm_id").agg(pl.col("reward").cast(pl.Float64).mean())
    arms = sorted(means["arm_id"].unique())
    if len(arms) < 2:
        return ()
    table = means.pivot(on="arm_id", index="example_id", values="reward").sort("example_id")
    contrasts = []
    for arm, other in itertools.combinations(arms, 2):
        differences = table.select(pl.col(arm) - pl.col(other)).to_series().drop_nulls().to_numpy()
        if len(differences):
            contrasts.append(_contrast(arm, other, differences, seed))
    adjusted = holm([contrast.p_value for contrast in contrasts])
    return tuple(replace(contrast, p_holm=p) for contrast, p in zip(contrasts, adjusted, strict=True))


def holm(p_values: list[float]) -> list[float]:
    """Holm's step-down adjusted p values, in the order given."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def sign_flip_p(differences: npt.NDArray[np.float64], *, seed: int) -> float:
    """Two-sided p of the sign-flip test of mean 0; 1.0 when every difference is 0."""
    # rewards are float32 in files: equal differences must stay equal
    sizes, copies = np.unique(np.round(np.abs(differences), 9), return_counts=True)
    sizes, copies = sizes[sizes > 0], copies[sizes > 0]
    if not len(sizes):
        return 1.0
    observed = abs(float(differences.sum()))
    if len(sizes) > MAX_DISTINCT:
        return 2 * norm_cdf(-observed / math.sqrt(float(differences @ differences)))
    heads = np.random.default_rng(seed).binomial(copies, 0.5, size=(FLIPS, len(copies)))
    flipped = np.abs((2 * heads - copies) @ sizes)
    extreme = int((flipped >= observed - _TOLERANCE * max(1.0, observed)).sum())
    return (extreme + 1) / (FLIPS + 1)


def _contrast(arm: str, other: str, differences: npt.NDArray[np.float64], seed: int) -> ArmContrast:
    count = len(differences)
    mean = float(differences.mean())
    half = None
    if count > 1:
        quantile = t_ppf((1 + CONFIDENCE) / 2, count - 1)
        half = quantile * float(differences.std(ddof=1)) / math.sqrt(count)
    p_value = sign_flip_p(differences, seed=seed)
    return ArmContrast(
        arm_id=arm,
        other_arm_id=other,
        questions=count,
        mean_difference=mean,
        low=None if half is None else mean - half,
        high=None if half is None else mean + half,
        p_value=p_value,
        p_holm=p_value,
    )
