import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from tasks.comparison.tost import LEVEL, mean_interval, minimum_questions, questions_needed

EPSILON = 0.02
SIMULATIONS = 500
RESAMPLES = 1000

Draw = Callable[[np.random.Generator, int, float], np.ndarray]


def eight_arms(rng: np.random.Generator, n: int, difference: float) -> np.ndarray:
    """Each of 8 rollouts flips with probability 0.1, more often upwards by ``difference``."""
    uniform = rng.random((n, 8))
    up = uniform < 0.05 + difference / 2
    down = uniform > 0.95 + difference / 2
    return (up.astype(float) - down).mean(axis=1)


def clustered(rng: np.random.Generator, n: int, difference: float) -> np.ndarray:
    """A fifth of the questions flip in all arms together."""
    uniform = rng.random(n)
    return (uniform < 0.1 + difference / 2).astype(float) - (uniform > 0.9 + difference / 2)


def rare(rng: np.random.Generator, n: int, difference: float) -> np.ndarray:
    """A share ``difference`` of the questions falls from 1 to 0, and all others are equal: the most skewed case."""
    return -(rng.random(n) < difference).astype(float)


def equivalent_rate(draw: Draw, n: int, difference: float, epsilon: float = EPSILON) -> float:
    rng = np.random.default_rng(20260101)
    shown = 0
    for simulation in range(SIMULATIONS):
        interval = mean_interval(draw(rng, n, difference), seed=simulation, resamples=RESAMPLES)
        low, high = interval.bounds
        shown += n >= minimum_questions(epsilon) and -epsilon < low and high < epsilon
    return shown / SIMULATIONS


# With a true rate of 5%, at most 1 of 1000 such simulations exceeds this (binomial).
MOST_AT_MARGIN = stats.binom.ppf(0.999, SIMULATIONS, LEVEL) / SIMULATIONS


@pytest.mark.parametrize("n", [150, 200, 1000])
@pytest.mark.parametrize("draw", [eight_arms, clustered, rare])
def test_false_equivalence_at_the_margin_is_at_most_five_percent(draw: Draw, n: int) -> None:
    assert equivalent_rate(draw, n, EPSILON) <= MOST_AT_MARGIN


@pytest.mark.parametrize("n", [150, 1000])
def test_a_difference_beyond_the_margin_is_never_called_equivalent(n: int) -> None:
    assert equivalent_rate(eight_arms, n, 0.05) == 0.0


@pytest.mark.parametrize(
    ("n", "difference", "at_least", "at_most"),
    [
        (1000, 0.0, 0.95, 1.0),
        (1000, 0.01, 0.5, 0.99),
        (300, 0.0, 0.6, 1.0),
        (100, 0.0, 0.0, 0.0),
    ],
)
def test_power_grows_with_questions_and_falls_with_the_difference(
    n: int, difference: float, at_least: float, at_most: float
) -> None:
    assert at_least <= equivalent_rate(eight_arms, n, difference) <= at_most


@pytest.mark.parametrize("draw", [eight_arms, clustered])
def test_the_interval_covers_the_true_difference_nine_times_in_ten(draw: Draw) -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for simulation in range(SIMULATIONS):
        interval = mean_interval(draw(rng, 200, 0.01), seed=simulation, resamples=RESAMPLES)
        covered += interval.bounds[0] <= 0.01 <= interval.bounds[1]
    low, high = stats.binom.ppf([0.0005, 0.9995], SIMULATIONS, 1 - 2 * LEVEL)
    assert low <= covered <= high


def test_symmetric_values_give_students_interval() -> None:
    values = np.random.default_rng(0).normal(size=4000)
    interval = mean_interval(values, seed=0)
    half = stats.t.ppf(0.95, 3999) * values.std(ddof=1) / math.sqrt(4000)
    assert interval.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_distinct_and_repeated_values_are_resampled_alike() -> None:
    repeated = np.round(np.random.default_rng(1).normal(size=3000), 1)
    jittered = repeated + np.random.default_rng(2).normal(size=3000) * 1e-9
    first, second = (mean_interval(values, seed=0) for values in (repeated, jittered))
    assert first.low == pytest.approx(second.low, abs=2e-3)
    assert first.high == pytest.approx(second.high, abs=2e-3)


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        ([], None, None),
        ([0.5], None, None),
        ([0.25, 0.25, 0.25], 0.25, 0.25),
    ],
)
def test_the_interval_of_few_or_equal_values(values: list[float], low: float | None, high: float | None) -> None:
    interval = mean_interval(np.array(values), seed=0)
    assert (interval.low, interval.high) == (low, high)


@pytest.mark.parametrize(
    ("epsilon", "reward_range", "fewest"), [(0.02, 1.0, 149), (0.05, 1.0, 59), (0.02, 2.0, 299), (1.5, 1.0, 2)]
)
def test_minimum_questions_show_a_rare_change_with_95_percent(epsilon: float, reward_range: float, fewest: int) -> None:
    assert minimum_questions(epsilon, reward_range) == fewest
    share = min(1.0, epsilon / reward_range)
    assert (1 - share) ** fewest <= LEVEL


def test_the_needed_questions_suffice_nine_times_in_ten() -> None:
    pilot = mean_interval(clustered(np.random.default_rng(3), 200, 0.0), seed=0)
    needed = questions_needed(pilot, epsilon=0.1)
    assert needed is not None
    rate = equivalent_rate(clustered, needed, 0.0, epsilon=0.1)
    assert 0.85 <= rate <= 0.95


def test_no_number_of_questions_suffices_outside_the_margin() -> None:
    interval = mean_interval(eight_arms(np.random.default_rng(4), 4000, 0.03), seed=0)
    assert questions_needed(interval, epsilon=EPSILON) is None
