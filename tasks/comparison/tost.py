"""Tests whether a mean difference lies within a margin: two one-sided tests, by a bootstrap interval.

Two one-sided tests at level 0.05 reject "the difference is at least epsilon" exactly when the 90% interval lies inside
+-epsilon (Schuirmann 1987, J. Pharmacokinet. Biopharm. 15:657). There is one value per question, so resampling the
values is a cluster bootstrap: the rollouts of one question stay together.

The interval is BCa (Efron 1987, JASA 82:171), because rewards that differ on few questions are skewed. The plain
percentile interval then calls a difference at the margin equivalent twice as often as it may. The normal quantile of
BCa is replaced by sqrt(n/(n-1)) times Student's (Hesterberg 2015, Am. Stat. 69:371), which makes the interval as wide
as a t interval.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.distributions import norm_cdf, norm_ppf, t_ppf

LEVEL = 0.05
"""Level of each one-sided test; the interval has confidence 1 - 2 * LEVEL."""
RESAMPLES = 5000
_POWER = 0.9
_MOST_DISTINCT = 2048
_CHUNK = 4_000_000


@dataclass(frozen=True, kw_only=True)
class MeanInterval:
    """A mean difference, candidate minus baseline, with its two-sided 90% interval."""

    mean: float
    """Mean of the differences per question."""
    low: float | None
    """Lower end of the interval; None when there is no bound, as with fewer than two questions."""
    high: float | None
    """Upper end of the interval; None when there is no bound."""
    standard_deviation: float
    """Standard deviation of the differences per question."""
    n: int
    """Number of questions."""

    @property
    def bounds(self) -> tuple[float, float]:
        """``low`` and ``high`` as numbers, infinite where there is no bound."""
        return -math.inf if self.low is None else self.low, math.inf if self.high is None else self.high


def minimum_questions(epsilon: float, reward_range: float = 1.0) -> int:
    """Fewest questions that can show equivalence at all.

    When a share epsilon / reward_range of the questions changes from one extreme to the other, the mean changes by
    epsilon. A sample of n questions misses this with probability (1 - epsilon / reward_range) ** n, which is more than
    LEVEL below the returned n (the "rule of three", Hanley and Lippman-Hand 1983, JAMA 249:1743).
    """
    share = epsilon / reward_range
    return 2 if share >= 1 else max(2, math.ceil(math.log(LEVEL) / math.log1p(-share)))


def mean_interval(values: npt.NDArray[np.float64], *, seed: int, resamples: int = RESAMPLES) -> MeanInterval:
    """The BCa interval of the mean of ``values``, one per question; the same seed gives the same interval.

    The interval of equal values is their mean alone, so callers must check ``minimum_questions`` too. Fewer than two
    values have no bounds.
    """
    n = values.size
    if n < 2:
        mean = float(values.mean()) if n else 0.0
        return MeanInterval(mean=mean, low=None, high=None, standard_deviation=0.0, n=n)
    # rounded, since sums of the same rewards in another order must not count as distinct values
    values = np.sort(np.round(values, 12))
    mean = float(values.mean())
    deviations = values - mean
    if values[0] == values[-1]:
        return MeanInterval(mean=mean, low=mean, high=mean, standard_deviation=0.0, n=n)
    means = _resampled_means(values, np.random.default_rng(seed), resamples)
    below = (np.count_nonzero(means < mean - 1e-12) + np.count_nonzero(means <= mean + 1e-12)) / (2 * resamples)
    bias = norm_ppf(min(max(below, 1 / resamples), 1 - 1 / resamples))
    acceleration = float((deviations**3).sum() / (6 * (deviations**2).sum() ** 1.5))
    width = t_ppf(1 - LEVEL, n - 1) * math.sqrt(n / (n - 1))
    low = np.quantile(means, _bca_level(-width, bias, acceleration), method="lower")
    high = np.quantile(means, _bca_level(width, bias, acceleration), method="higher")
    return MeanInterval(mean=mean, low=float(low), high=float(high), standard_deviation=float(values.std(ddof=1)), n=n)


def questions_needed(interval: MeanInterval, *, epsilon: float, reward_range: float = 1.0) -> int | None:
    """Number of questions with which the tests would show equivalence 9 times in 10, or None when no number would.

    It is n = (z_0.95 + z_0.95)^2 s^2 / epsilon^2 if the true difference is 0 (Julious 2004, Stat. Med. 23:1921). If
    ``interval`` already has n questions, it is (z_0.95 + z_0.90)^2 s^2 / (epsilon - |mean|)^2 at the measured mean.
    """
    level, one_sided, two_sided = (norm_ppf(p) for p in (1 - LEVEL, _POWER, (1 + _POWER) / 2))
    variance = interval.standard_deviation**2
    fewest = minimum_questions(epsilon, reward_range)
    centred = math.ceil((level + two_sided) ** 2 * variance / epsilon**2)
    if max(centred, fewest) > interval.n:
        return max(centred, fewest)
    if abs(interval.mean) >= epsilon:
        return None
    return max(
        fewest, interval.n + 1, math.ceil((level + one_sided) ** 2 * variance / (epsilon - abs(interval.mean)) ** 2)
    )


def _bca_level(width: float, bias: float, acceleration: float) -> float:
    shifted = bias + width
    denominator = 1 - acceleration * shifted
    if denominator <= 0:
        return 1.0 if width > 0 else 0.0
    return norm_cdf(bias + shifted / denominator)


def _resampled_means(
    values: npt.NDArray[np.float64], rng: np.random.Generator, resamples: int
) -> npt.NDArray[np.float64]:
    distinct, counts = np.unique(values, return_counts=True)
    n = values.size
    if distinct.size <= _MOST_DISTINCT:
        # the counts of the distinct values are multinomial: the same bootstrap, in time that does not depend on n
        return np.asarray(rng.multinomial(n, counts / n, size=resamples) @ distinct / n)
    rows = max(1, _CHUNK // n)
    chunks = [
        values[rng.integers(0, n, size=(min(rows, resamples - start), n), dtype=np.int32)].mean(axis=1)
        for start in range(0, resamples, rows)
    ]
    return np.concatenate(chunks)
