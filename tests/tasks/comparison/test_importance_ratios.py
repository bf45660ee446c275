"""The estimators of a mismatch, by values that can be worked out by hand."""

import math

import numpy as np
import pytest

from tasks.comparison.importance_ratios import effective_share, sequence_ratios, token_ratios

LOG2 = math.log(2)


@pytest.mark.parametrize(
    ("ratios", "k1", "k3", "mean", "outside", "effective"),
    [
        ([1, 1, 1, 1], 0, 0, 1, 0, 1),
        ([2, 2], -LOG2, 1 - LOG2, 2, 1, 1),
        ([2, 0.5], 0, 0.25, 1.25, 1, 2.5**2 / 4.25 / 2),
        ([1, 3], -math.log(3) / 2, (2 - math.log(3)) / 2, 2, 0.5, 16 / 10 / 2),
        ([0.81, 1.19], -math.log(0.81 * 1.19) / 2, -math.log(0.81 * 1.19) / 2, 1, 0, 4 / (0.81**2 + 1.19**2) / 2),
        ([0.79, 1.21], -math.log(0.79 * 1.21) / 2, -math.log(0.79 * 1.21) / 2, 1, 1, 4 / (0.79**2 + 1.21**2) / 2),
    ],
)
def test_closed_forms(ratios: list[float], k1: float, k3: float, mean: float, outside: float, effective: float) -> None:
    engine = np.linspace(-3, -1, len(ratios))
    found = token_ratios(engine, engine + np.log(ratios))
    assert found.tokens == len(ratios)
    assert (found.kl_k1, found.kl_k3, found.mean_ratio, found.outside, found.effective_sample) == pytest.approx(
        (k1, k3, mean, outside, effective)
    )
    assert found.mean_gap == pytest.approx(np.abs(np.log(ratios)).mean())


def test_k3_of_tiny_gaps_keeps_its_digits() -> None:
    found = token_ratios(np.full(3, -1.0), np.full(3, -1.0 + 1e-7))
    assert found.kl_k3 == pytest.approx(1e-14 / 2, rel=1e-2)


def test_the_estimators_find_the_divergence_of_two_distributions() -> None:
    policy, trainer = np.array([0.5, 0.3, 0.2]), np.array([0.4, 0.4, 0.2])
    drawn = np.random.default_rng(0).choice(3, size=200_000, p=policy)
    found = token_ratios(np.log(policy)[drawn], np.log(trainer)[drawn])
    divergence = float((policy * np.log(policy / trainer)).sum())
    assert (found.kl_k1, found.kl_k3) == pytest.approx((divergence, divergence), abs=1e-3)
    assert found.mean_ratio == pytest.approx(1, abs=1e-2)
    assert found.effective_sample == pytest.approx(1 / (trainer**2 / policy).sum(), abs=1e-2)


def test_impossible_tokens_have_ratio_0_and_no_divergence() -> None:
    found = token_ratios(np.array([-1.0, -1.0]), np.array([-1.0, -np.inf]))
    assert (found.impossible, found.kl_k1, found.kl_k3, found.mean_ratio, found.outside) == (1, 0, 0, 0.5, 0.5)
    assert found.effective_sample == 0.5
    nothing = token_ratios(np.array([-1.0]), np.array([-np.inf]))
    assert (nothing.kl_k1, nothing.mean_gap, nothing.effective_sample) == (None, None, 0)


def test_whole_completions_multiply_their_ratios() -> None:
    found = sequence_ratios([np.array([LOG2, LOG2]), np.array([0.0]), np.array([0.0, -np.inf])])
    assert (found.rollouts, found.mean_log_ratio) == (3, pytest.approx(LOG2))
    assert found.effective_sample == pytest.approx((4 + 1) ** 2 / (16 + 1) / 3)


def test_the_effective_sample_of_weights_beyond_every_number() -> None:
    assert effective_share(np.array([2_000.0, 2_000.0])) == 1
    assert effective_share(np.array([2_000.0, 0.0])) == 0.5
