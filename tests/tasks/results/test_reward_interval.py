import numpy as np
import polars as pl
import pytest
from scipy import stats

from tasks.results.reward_interval import MAX_DISTINCT_CLUSTERS, mean_reward_interval, wilson_interval


def frame(rewards: list[list[float]]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "example_id": [f"q{index}" for index, samples in enumerate(rewards) for _ in samples],
            "reward": [reward for samples in rewards for reward in samples],
        },
        schema={"example_id": pl.String, "reward": pl.Float64},
    )


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (3, 10), (10, 10), (500, 1319)])
def test_wilson_agrees_with_scipy(successes: int, trials: int) -> None:
    interval = wilson_interval(successes, trials)
    expected = stats.binomtest(successes, trials).proportion_ci(method="wilson")
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))


def test_bootstrap_covers_like_the_clusters_it_draws() -> None:
    """Four equal samples per question say no more than one: the interval is that of the questions."""
    rng = np.random.default_rng(0)
    outcomes = rng.integers(0, 2, 400).astype(float)
    interval = mean_reward_interval(frame([[outcome] * 4 for outcome in outcomes]), seed=0)
    assert interval is not None
    questions = wilson_interval(int(outcomes.sum()), 400)
    assert interval.high - interval.low == pytest.approx(questions.high - questions.low, rel=0.1)


def test_bootstrap_and_its_limit_agree() -> None:
    rng = np.random.default_rng(0)
    few = rng.random((MAX_DISTINCT_CLUSTERS - 1, 2)).tolist()
    many = [*few, *rng.random((2, 2)).tolist()]
    drawn, normal = mean_reward_interval(frame(few), seed=0), mean_reward_interval(frame(many), seed=0)
    assert drawn is not None
    assert normal is not None
    assert (drawn.method, normal.method) == ("cluster_bootstrap", "cluster_normal")
    assert (drawn.low, drawn.high) == pytest.approx((normal.low, normal.high), abs=2e-3)


@pytest.mark.parametrize("rewards", [[], [[0.0, 1.0]]])
def test_too_little_to_say(rewards: list[list[float]]) -> None:
    assert mean_reward_interval(frame(rewards), seed=0) is None
