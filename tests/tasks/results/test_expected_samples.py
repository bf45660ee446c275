from pathlib import Path

import pytest

from tasks.errors import PoolClosed
from tasks.plan.sampling import Sampling
from tasks.results.expectation import expect
from tasks.results.expectation_view import plan_lines
from tasks.results.expected_samples import expected_samples, samples_per_group
from tests.support.synthetic import write_run
from tests.support.wave_pool import WavePool, collect, rows_of, wave_plan

GEOMETRIC = Sampling(samples_per_arm=1, max_samples_per_arm=6, sample_until="correct:1")
MIXED = {"samples_per_arm": 2, "max_samples_per_arm": 7, "sample_until": "mixed"}


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_samples_until_one_is_right_are_geometric(rate: float) -> None:
    assert expected_samples(rate, GEOMETRIC) == pytest.approx((1 - (1 - rate) ** 6) / rate)


def test_what_never_fits_takes_all_samples_and_the_last_wave_is_cut() -> None:
    sampling = Sampling(samples_per_arm=4, max_samples_per_arm=11, sample_until="mixed")
    assert expected_samples(0.0, sampling) == expected_samples(1.0, sampling) == 11
    # after 4, 8 and 11: a wave is made where all rollouts before it were alike
    alike = {end: 2 * 0.5**end for end in (4, 8)}
    assert expected_samples(0.5, sampling) == pytest.approx(4 + 4 * alike[4] + 3 * alike[8])


def test_an_earlier_run_tells_how_many_to_expect(tmp_path: Path) -> None:
    assert samples_per_group(tmp_path / "none", GEOMETRIC, 1.0) is None
    right, wrong = (
        samples_per_group(write_run(tmp_path / name, samples=8, arms=2, accuracy=accuracy).root, GEOMETRIC, 1.0)
        for name, accuracy in (("right", 1.0), ("wrong", 0.0))
    )
    assert right is not None
    assert wrong is not None
    assert 1 < right < 1.1
    assert 5 < wrong < 6


def test_a_plan_says_the_fewest_and_the_most(tmp_path: Path) -> None:
    plan = wave_plan(tmp_path, **MIXED)
    expected = expect([plan])
    assert (expected.rollouts, expected.rollouts_most, expected.rollouts_by) == (5 * 2 * 2, 5 * 2 * 7, None)
    assert plan_lines(expected)[0] == "expected rollouts: 20 to 70"
    assert expected.completion_tokens_most == 70 * 8


def test_the_same_command_again_expects_the_rest(tmp_path: Path) -> None:
    plan = wave_plan(tmp_path, **MIXED)
    with pytest.raises(PoolClosed):
        collect(plan, WavePool(stop_after=5))
    # the first shard has its two waves more, and the second its first
    begun = expect([plan])
    assert not plan.paths.settled(1).exists()
    first = len([key for key in rows_of(plan) if key[0] in ("q0", "q1")])
    assert begun.rollouts_finished == first + 8
    assert begun.rollouts_most == 28 - 8 + 14
    assert 0 < begun.rollouts < begun.rollouts_most
    collect(plan, WavePool())
    # groups that fit the rule get no more, though they have fewer samples than the most
    finished = expect([plan])
    assert finished.rollouts_finished == len(rows_of(plan)) < 70
    assert (finished.rollouts, finished.rollouts_most, finished.completion_tokens_most) == (0, 0, 0)
    # pass rates are those of a scorer
    assert expect([wave_plan(tmp_path, **MIXED, wave_size=1)]).rollouts_by == plan.run_id
    assert expect([wave_plan(tmp_path, **MIXED, scorer="math")]).rollouts_by is None
