import numpy as np
import polars as pl
import pytest
from scipy import stats

from tasks.comparison.paired_statistics import compare_finish_reasons, compare_lengths, compare_rewards, count_flips


def pairs(
    rewards: list[tuple[float | None, float | None]],
    *,
    questions: list[str] | None = None,
    arms: list[str] | None = None,
) -> pl.DataFrame:
    n = len(rewards)
    return pl.DataFrame(
        {
            "example_id": questions or [f"q{index}" for index in range(n)],
            "arm_id": arms or ["only"] * n,
            "base_reward": pl.Series([base for base, _ in rewards], dtype=pl.Float32),
            "cand_reward": pl.Series([cand for _, cand in rewards], dtype=pl.Float32),
            "base_answer": [str(base) for base, _ in rewards],
            "cand_answer": [str(cand) for _, cand in rewards],
        }
    )


def test_questions_have_equal_weight_and_unscored_rollouts_do_not_count() -> None:
    frame = pairs([(1, 0), (1, 1), (1, 1), (0, 1), (None, 1), (1, None)], questions=["a", "a", "a", "b", "b", "c"])
    found = compare_rewards(frame, seed=0)
    assert found.rollouts == 4
    assert found.difference.n == 2
    assert found.baseline_mean == pytest.approx((1 + 0) / 2)
    assert found.candidate_mean == pytest.approx((2 / 3 + 1) / 2)
    assert found.difference.mean == pytest.approx(((2 / 3 - 1) + 1) / 2)


def test_each_arm_is_compared_alone() -> None:
    frame = pairs([(1, 0), (0, 0), (1, 1), (0, 1)], questions=["a", "b", "a", "b"], arms=["x", "x", "y", "y"])
    found = compare_rewards(frame, seed=0)
    assert [(arm.arm_id, arm.difference.mean) for arm in found.arms] == [("x", -0.5), ("y", 0.5)]
    assert found.difference.mean == 0.0


def test_the_range_of_rewards_is_at_least_one() -> None:
    assert compare_rewards(pairs([(0.5, 0.25)]), seed=0).reward_range == 1.0
    assert compare_rewards(pairs([(-1.0, 2.0)]), seed=0).reward_range == 3.0


def test_flips_both_ways() -> None:
    flips = count_flips(pairs([(1, 0)] * 7 + [(0, 1)] * 2 + [(1, 1)] * 80 + [(0.2, 0.3)] * 11))
    assert (flips.rollouts, flips.correct_only_in_baseline, flips.correct_only_in_candidate) == (100, 7, 2)
    assert flips.answers_changed == 20
    assert flips.rate == 0.09
    assert flips.mcnemar_p == pytest.approx(2 * stats.binom.cdf(2, 9, 0.5))
    assert flips.clustered_p == pytest.approx(stats.chi2.sf(5**2 / 9, 1))


def test_rollouts_that_flip_together_are_weaker_evidence() -> None:
    together = pairs([(1, 0)] * 8 + [(1, 1)] * 8, questions=["a"] * 8 + ["b"] * 8)
    flips = count_flips(together)
    assert flips.mcnemar_p < 0.01
    assert flips.clustered_p > 0.3


def test_nothing_scored() -> None:
    found = compare_rewards(pairs([(None, 1), (None, None)]), seed=0)
    assert (found.rollouts, found.difference.n, found.flips.rate, found.flips.mcnemar_p) == (0, 0, 0.0, 1.0)


def test_the_same_seed_gives_the_same_interval() -> None:
    rng = np.random.default_rng(0)
    frame = pairs([(float(a), float(b)) for a, b in rng.integers(0, 2, size=(300, 2))])
    shuffled = frame.sample(fraction=1, shuffle=True, seed=1)
    assert compare_rewards(frame, seed=3) == compare_rewards(shuffled, seed=3)
    assert compare_rewards(frame, seed=3) != compare_rewards(frame, seed=4)


def test_lengths() -> None:
    lengths = np.random.default_rng(0).integers(50, 150, size=400)
    frame = pl.DataFrame(
        {"example_id": [f"q{i}" for i in range(400)], "base_tokens": lengths, "cand_tokens": lengths[::-1] + 5}
    )
    found = compare_lengths(frame)
    assert found.difference.mean == pytest.approx(5)
    assert found.candidate_mean == pytest.approx(found.baseline_mean + 5)
    expected = stats.ttest_1samp(lengths[::-1] + 5 - lengths, 0).confidence_interval(0.9)
    assert (found.difference.low, found.difference.high) == pytest.approx(tuple(expected))


def test_finish_reasons() -> None:
    frame = pl.DataFrame(
        {
            "base_finish_reason": ["stop", "stop", "length", None],
            "cand_finish_reason": ["stop", "length", "length", "stop"],
        }
    )
    found = {item.finish_reason: (item.baseline, item.candidate, item.both) for item in compare_finish_reasons(frame)}
    assert found == {"stop": (2, 2, 1), "length": (1, 2, 1), "(none)": (1, 0, 0)}
