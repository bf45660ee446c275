"""The estimate and the interval of a pass rate, where samples are drawn until a rule holds."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from scipy import stats

from tasks.plan.stopping_rule import StoppingRule, wave_ends
from tasks.results.pass_rate import WavePlan, pass_rate, pass_rate_interval, stop_reason

RULES = ("correct:1", "correct:3", "mixed", "mixed:2", "width:0.5", "width:0.35", "mixed,width:0.4,correct:5")


def plan_of(rule: str | None, first: int = 4, size: int = 4, most: int = 32) -> WavePlan:
    ends = wave_ends(first, size, most) if rule else (most,)
    return WavePlan(ends=ends, rule=StoppingRule.parse(rule) if rule else None)


def orders(plan: WavePlan) -> Iterator[tuple[int, ...]]:
    """Every order of right and wrong samples, up to where the group stops."""
    seen = set()
    for order in itertools.product((0, 1), repeat=plan.ends[-1]):
        end = next(end for end in plan.ends if stop_reason(plan, end, sum(order[:end])))
        if (stopped := order[:end]) not in seen:
            seen.add(stopped)
            yield stopped


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("first", "size"), [(1, 1), (3, 2), (4, 4)])
def test_the_estimate_is_the_share_of_orders_that_begin_right(rule: str, first: int, size: int) -> None:
    plan = plan_of(rule, first, size, most=9)
    found: dict[tuple[int, int], list[int]] = {}
    for order in orders(plan):
        found.setdefault((len(order), sum(order)), []).append(order[0])
    for (samples, right), begins in found.items():
        assert pass_rate(plan, samples, right) == pytest.approx(sum(begins) / len(begins), abs=1e-11)
    # and so its mean is the pass rate, whatever that is
    for rate in (0.02, 0.3, 0.5, 0.98):
        mean = sum(
            len(begins) * rate**right * (1 - rate) ** (samples - right) * pass_rate(plan, samples, right)
            for (samples, right), begins in found.items()
        )
        assert mean == pytest.approx(rate, abs=1e-10)


@pytest.mark.parametrize(("samples", "right"), [(2, 2), (7, 2), (32, 2), (31, 2)])
def test_it_is_that_of_haldane_for_single_samples_until_k_are_right(samples: int, right: int) -> None:
    assert pass_rate(plan_of("correct:2", 1, 1), samples, right) == pytest.approx((right - 1) / (samples - 1))


def test_it_is_the_share_where_nothing_stops_early() -> None:
    assert [pass_rate(plan_of(None), 32, right) for right in range(33)] == [right / 32 for right in range(33)]
    assert [pass_rate(plan_of("mixed"), 4, right) for right in range(5)] == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_the_interval_of_a_fixed_number_is_the_mid_p_interval() -> None:
    low, high = pass_rate_interval(plan_of(None, most=20), 20, 6)
    for rate, tail in ((low, stats.binom.sf(6, 20, low)), (high, stats.binom.cdf(5, 20, high))):
        assert tail + stats.binom.pmf(6, 20, rate) / 2 == pytest.approx(0.025, abs=1e-6)
    assert [pass_rate_interval(plan_of(None, most=20), 20, right)[side] for right, side in ((0, 0), (20, 1))] == [0, 1]


@pytest.mark.parametrize("rule", RULES)
def test_intervals_hold_the_share_and_rise_with_it(rule: str) -> None:
    plan = plan_of(rule)
    samples = np.random.default_rng(2).random((200, 32)) < np.linspace(0, 1, 200)[:, None]
    stopped = {_stop(plan, row) for row in samples}
    outcomes = [(right / n, right - n / 2, *pass_rate_interval(plan, n, right)) for n, right in stopped]
    outcomes.sort()
    for share, _, low, high in outcomes:
        assert 0 <= low <= share <= high <= 1
    for column in (2, 3):
        ends = [outcome[column] for outcome in outcomes]
        assert ends == sorted(ends)


@pytest.mark.parametrize("rule", [None, *RULES])
def test_the_intervals_of_groups_cover_their_pass_rates(rule: str | None) -> None:
    """Counts are discrete, and so the coverage swings with the pass rate. With few outcomes its mean is above 95%."""
    plan = plan_of(rule)
    rates = np.linspace(0.02, 0.98, 49)
    draws = np.random.default_rng(5).random((40, len(rates), 32)) < rates[:, None]
    covered = [
        low <= rate <= high
        for rate, samples in zip(np.tile(rates, 40), draws.reshape(-1, 32), strict=True)
        for low, high in [pass_rate_interval(plan, *_stop(plan, samples))]
    ]
    assert 0.94 < np.mean(covered) < 0.985


def _stop(plan: WavePlan, samples: np.ndarray) -> tuple[int, int]:
    counts = ((end, int(samples[:end].sum())) for end in plan.ends)
    return next(state for state in counts if stop_reason(plan, *state))


def test_many_samples_are_soon_estimated() -> None:
    plan = plan_of("width:0.05", 8, 32, 2048)
    assert pass_rate(plan, 2048, 1000) == pytest.approx(1000 / 2048, abs=0.01)
