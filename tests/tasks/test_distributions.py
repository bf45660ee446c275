"""The distributions give the values of ``scipy.stats``."""

import pytest
from scipy import stats

from tasks.distributions import chi2_sf, norm_cdf, norm_ppf, poisson_sf, sign_test_p, t_ppf


@pytest.mark.parametrize("p", [1e-9, 0.001, 0.05, 0.5, 0.8, 0.975, 1 - 1e-9])
def test_quantiles(p: float) -> None:
    assert norm_ppf(p) == pytest.approx(stats.norm.ppf(p), abs=1e-12)
    for degrees in (1, 2, 7, 499, 100_000):
        assert t_ppf(p, degrees) == pytest.approx(stats.t.ppf(p, degrees), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("x", [-8.0, -1.5, 0.0, 0.3, 4.0])
def test_tails(x: float) -> None:
    assert norm_cdf(x) == pytest.approx(stats.norm.cdf(x), rel=1e-12)
    assert chi2_sf(abs(x), 1) == pytest.approx(stats.chi2.sf(abs(x), 1), rel=1e-12)


@pytest.mark.parametrize("mean", [0.001, 0.7, 30.0, 5000.0])
@pytest.mark.parametrize("k", [-1, 0, 1, 29, 5100])
def test_poisson_tail(k: int, mean: float) -> None:
    assert poisson_sf(k, mean) == pytest.approx(stats.poisson.sf(k, mean), rel=1e-9, abs=1e-300)


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (0, 1), (1, 2), (3, 20), (17, 20), (250, 500), (900, 2000)])
def test_sign_test(successes: int, trials: int) -> None:
    expected = stats.binomtest(successes, trials).pvalue if trials else 1.0
    assert sign_test_p(successes, trials) == pytest.approx(expected, rel=1e-9)
