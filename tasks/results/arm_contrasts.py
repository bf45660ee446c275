"""Compares the mean rewards of every pair of arms, paired by question.

For a pair of arms, each question that both answered gives one difference: its mean reward under the first arm minus
its mean reward under the second. A contrast has

- the mean of these differences, with its 95% t interval;
- the two-sided p of the sign-flip permutation test, whose null hypothesis is a distribution symmetric about 0 (Fisher
  1935, The Design of Experiments, section 21): p = (extreme + 1) / (flips + 1) (Phipson & Smyth 2010, Stat. Appl.
  Genet. Mol. Biol. 9:39);
- that p adjusted over all pairs by Holm's method (1979, Scand. J. Stat. 6:65).
"""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks.distributions import norm_cdf, t_ppf
from tasks.results.reward_interval import CONFIDENCE

SIGNIFICANCE = 0.05
"""A difference is significant when its Holm-adjusted p is below this."""
FLIPS = 10_000
MAX_DISTINCT = 2_000
"""With more distinct differences, the test statistic is taken as normal, which is its limit."""

_TOLERANCE = 1e-9


@dataclass(frozen=True, kw_only=True)
class ArmContrast:
    """The difference of two arms: ``arm_id`` minus ``other_arm_id``."""

    arm_id: str
    other_arm_id: str
    questions: int
    """Questions that both arms answered."""
    mean_difference: float
    low: float | None
    """Lower end of the 95% interval; None with a single question."""
    high: float | None
    """Upper end of the 95% interval; None with a single question."""
    p_value: float
    p_holm: float
    """``p_value`` adjusted over all pairs of arms."""

    @property
    def is_significant(self) -> bool:
        return self.p_holm < SIGNIFICANCE

    def better_first(self) -> "ArmContrast":
        """Return the same contrast with the better arm as ``arm_id``."""
        if self.mean_difference >= 0:
            return self
        return replace(
            self,
            arm_id=self.other_arm_id,
            other_arm_id=self.arm_id,
            mean_difference=-self.mean_difference,
            low=None if self.high is None else -self.high,
            high=None if self.low is None else -self.low,
        )


def significant_contrasts(contrasts: Iterable[ArmContrast]) -> list[ArmContrast]:
    """Return the significant contrasts, the largest difference first. In each, the better arm comes first."""
    significant = [contrast.better_first() for contrast in contrasts if contrast.is_significant]
    return sorted(significant, key=lambda contrast: -contrast.mean_difference)


def contrast_arms(scored: pl.DataFrame, *, seed: int) -> tuple[ArmContrast, ...]:
    """Return one contrast per pair of arms that share a question, in the order of arm names.

    ``scored`` has ``example_id``, ``arm_id`` and ``reward``, without nulls, and ``weight`` in a run with a stopping
    rule.
    """
    reward = pl.col("reward").cast(pl.Float64)
    mean = reward.dot(pl.col("weight")) / pl.col("weight").sum() if "weight" in scored.columns else reward.mean()
    means = scored.group_by("example_id", "arm_id").agg(mean.alias("reward")).filter(pl.col("reward").is_finite())
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
    """Return the p values adjusted by Holm's step-down method, in the order given."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def sign_flip_p(differences: npt.NDArray[np.float64], *, seed: int) -> float:
    """Return the two-sided p of the sign-flip test that the differences are symmetric about 0; 1.0 if all are 0."""
    # rounding keeps equal differences equal, although rewards are float32 on disk
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
