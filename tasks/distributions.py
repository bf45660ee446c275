"""Quantiles and tail probabilities of distributions, named as in ``scipy.stats`` and computed by ``scipy.special``.

Importing ``scipy.stats`` takes seconds, and every command that reads a run would be that much slower. ``scipy.special``
takes a tenth of one, and is imported when a number is asked for.
"""

import math
from typing import Any

Z_95 = 1.959963984540054
"""The quantile of the standard normal distribution at 0.975, of which a 95% interval is made."""


def norm_ppf(p: float) -> float:
    """Return the quantile of the standard normal distribution at probability ``p``."""
    return float(_special().ndtri(p))


def norm_cdf(x: float) -> float:
    """Return P(X <= x) of the standard normal distribution."""
    return float(_special().ndtr(x))


def t_ppf(p: float, degrees: float) -> float:
    """Return the quantile of Student's t distribution at probability ``p``."""
    return float(_special().stdtrit(degrees, p))


def chi2_sf(x: float, degrees: float) -> float:
    """Return P(X > x) of the chi-squared distribution."""
    return float(_special().chdtrc(degrees, x))


def poisson_sf(k: int, mean: float) -> float:
    """Return P(X > k) of the Poisson distribution."""
    return 1.0 if k < 0 else float(_special().pdtrc(k, mean))


def sign_test_p(successes: int, trials: int) -> float:
    """Return the two-sided p of the exact sign test, a binomial test of probability 1/2; 1.0 without trials."""
    fewer = min(successes, trials - successes)
    return min(1.0, 2 * float(_special().bdtr(fewer, trials, 0.5))) if trials else 1.0


def wilson_bounds(successes: int, trials: int) -> tuple[float, float]:
    """Return Wilson's 95% score interval of a proportion (1927, J. Am. Stat. Assoc. 22:209); at least one trial."""
    share = successes / trials
    scale = 1 + Z_95 * Z_95 / trials
    centre = (share + Z_95 * Z_95 / (2 * trials)) / scale
    half = Z_95 / scale * math.sqrt(share * (1 - share) / trials + Z_95 * Z_95 / (4 * trials * trials))
    return max(0.0, centre - half), min(1.0, centre + half)


def _special() -> Any:
    from scipy import special

    return special
