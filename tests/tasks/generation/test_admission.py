"""Admission: a chosen batch rises to what the KV cache holds, falls on preemption, and stays where it fits."""

import random
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.generation.admission import Admission, Load
from tests.support.simulated_cache import SimulatedCache

ARMS = 8


def lengths(median: float, sigma: float, longest: int = 2000) -> Callable[[int], int]:
    """Log-normal lengths by the number of the sequence."""

    def length(number: int) -> int:
        return min(longest, 1 + int(median * random.Random(number).lognormvariate(0, sigma)))

    return length


USUAL = lengths(80, 0.6)


def simulate(
    first: int | None,
    *,
    tokens: int = 20_000,
    length: Callable[[int], int] = USUAL,
    most: int = 256,
    steps: int = 3000,
) -> SimulatedCache:
    cache = SimulatedCache(tokens=tokens, prompt=50, length=length, seats=most, per_question=ARMS)
    cache.run(Admission(first=first, most=most, per_question=ARMS), steps)
    return cache


def changes(limits: Sequence[int]) -> list[int]:
    return [limit for before, limit in pairwise(limits) if limit != before]


# the mean sequence holds 50 + 80 tokens, so that 20,000 tokens hold about 150
@pytest.mark.parametrize(
    ("first", "tokens", "low", "high"),
    [
        pytest.param(48, 100_000, 256, 256, id="there is room for all seats"),
        pytest.param(8, 20_000, 115, 150, id="as many as fit"),
        pytest.param(128, 20_000, 115, 150, id="from near it"),
        pytest.param(256, 20_000, 90, 150, id="from too many"),
        pytest.param(8, 500, 8, 8, id="one question is never too many"),
    ],
)
def test_the_limit_goes_to_what_fits_and_stays(first: int, tokens: int, low: int, high: int) -> None:
    limits = simulate(first, tokens=tokens).limits
    assert low <= limits[-1] <= high
    assert changes(limits[len(limits) // 2 :]) == []
    assert len(changes(limits)) <= 8


def test_a_chosen_batch_is_seldom_preempted_on_its_way() -> None:
    cache = simulate(8)
    assert cache.preempted < cache.finished / 200


def test_a_rise_waits_until_the_batch_is_renewed_and_at_most_doubles() -> None:
    admission = Admission(first=16, most=1000, per_question=ARMS)
    seen = []
    for finished in range(1, 200):
        admission.observe(Load(in_flight=2000, running=2000, finished=finished, kv_cache_usage=0.1, preemptions=0))
        seen.append((finished, admission.limit))
    assert [change for before, change in pairwise(seen) if change[1] != before[1]] == [
        (16, 32),
        (48, 64),
        (112, 128),
    ]


@pytest.mark.parametrize(
    ("use", "limit"),
    [(0.1, 200), (0.45, 200), (0.6, 150), (0.8, 112), (0.84, 107), (0.85, 100), (0.9, 100), (1.0, 100)],
)
def test_the_use_of_the_cache_decides_how_far_it_rises(use: float, limit: int) -> None:
    admission = Admission(first=100, most=1000, per_question=ARMS)
    for finished in (50, 100):
        admission.observe(Load(in_flight=100, running=100, finished=finished, kv_cache_usage=use, preemptions=0))
    assert admission.limit == limit


def test_a_batch_that_is_not_full_says_nothing_about_a_full_one() -> None:
    admission = Admission(first=100, most=1000, per_question=ARMS)
    for finished in range(0, 1000, 10):
        admission.observe(Load(in_flight=60, running=60, finished=finished, kv_cache_usage=0.1, preemptions=0))
    assert admission.limit == 100


def test_it_falls_once_until_the_sequences_above_the_new_limit_have_ended() -> None:
    admission = Admission(first=200, most=200, per_question=ARMS)

    def after(in_flight: int, preemptions: int) -> int:
        admission.observe(
            Load(in_flight=in_flight, running=in_flight, finished=0, kv_cache_usage=1.0, preemptions=preemptions)
        )
        return admission.limit

    seen = [after(*load) for load in [(200, 1), (199, 2), (190, 5), (180, 5), (180, 6)]]
    assert seen == [175, 175, 175, 175, 153]


def test_it_falls_to_what_runs() -> None:
    admission = Admission(first=200, most=200, per_question=ARMS)
    admission.observe(Load(in_flight=200, running=80, finished=0, kv_cache_usage=1.0, preemptions=120))
    assert admission.limit == 70


def test_work_that_becomes_shorter_gets_more_again_and_longer_work_less() -> None:
    shorter = simulate(56, length=lambda number: 300 if number < 600 else 30, steps=6000).limits
    assert min(shorter) < 100 < shorter[-1]
    longer = simulate(56, length=lambda number: 30 if number < 4000 else 300, steps=8000).limits
    assert max(longer) > 200 > 80 > longer[-1]


@pytest.mark.parametrize("preemptions", [0, 50])
def test_a_stated_batch_never_changes(preemptions: int) -> None:
    admission = Admission(first=None, most=128, per_question=ARMS)
    for finished in range(0, 5000, 100):
        admission.observe(
            Load(in_flight=128, running=64, finished=finished, kv_cache_usage=0.2, preemptions=preemptions)
        )
        assert (admission.limit, admission.capacity, admission.questions) == (128, 128 + 8, 16)


@given(
    tokens=st.integers(200, 30_000),
    median=st.integers(1, 200),
    sigma=st.floats(0, 1.2),
    questions=st.integers(1, 20),
)
def test_memory_is_bounded_and_no_question_is_kept_out(tokens: int, median: int, sigma: float, questions: int) -> None:
    most = 20 * ARMS
    cache = simulate(questions * ARMS, tokens=tokens, length=lengths(median, sigma, 400), most=most, steps=150)
    assert all(ARMS <= limit <= most for limit in cache.limits)
    assert max(cache.in_flight) < most * 17 / 16 + ARMS
    assert min(cache.in_flight) >= ARMS
