"""Quantiles and tail probabilities by name, over ``scipy.special``.

``scipy.stats`` has them too, but its import takes seconds, which every command that reads a run would pay.
"""

from scipy import special


def norm_ppf(p: float) -> float:
    """Quantile of the standard normal distribution at probability ``p``."""
    return float(special.ndtri(p))


def norm_cdf(x: float) -> float:
    """P(X <= x) of the standard normal distribution."""
    return float(special.ndtr(x))


def t_ppf(p: float, degrees: float) -> float:
    """Quantile of Student's t distribution at probability ``p``."""
    return float(special.stdtrit(degrees, p))


def chi2_sf(x: float, degrees: float) -> float:
    """P(X > x) of the chi-squared distribution."""
    return float(special.chdtrc(degrees, x))


def poisson_sf(k: int, mean: float) -> float:
    """P(X > k) of the Poisson distribution."""
    return 1.0 if k < 0 else float(special.pdtrc(k, mean))


def sign_test_p(successes: int, trials: int) -> float:
    """Two-sided p of the exact sign test, a binomial test of probability 1/2; 1.0 without trials."""
    fewer = min(successes, trials - successes)
    return min(1.0, 2 * float(special.bdtr(fewer, trials, 0.5))) if trials else 1.0
