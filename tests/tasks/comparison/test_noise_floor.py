from pathlib import Path

import polars as pl
import pytest

from tasks.comparison.noise_floor import LEAST_DIVERGENCES, SAFETY_FACTOR, measure_noise_floor, read_noise_floor
from tasks.errors import ConfigError
from tests.support.toy_model import edit, write_toy_run


def test_the_floor_is_derived_from_two_runs_of_the_same_settings(tmp_path: Path) -> None:
    runs = [
        write_toy_run(tmp_path / str(order), questions=200, temperature=0.0, rounding=0.01, order=order).root
        for order in (1, 2)
    ]
    floor = measure_noise_floor(*runs)
    assert floor.measured
    assert floor.source_run_ids == ("1", "2")
    assert floor.rollouts == 400
    assert floor.divergence_rate == floor.divergences / 400 > 0
    assert 0 < floor.flip_rate <= floor.divergence_rate
    # a gap is a sum of four draws with standard deviation 0.01; of a few dozen gaps none exceeds five deviations
    assert 0.01 * SAFETY_FACTOR < floor.near_tie_limit < 5 * 0.02 * SAFETY_FACTOR


def test_the_limit_does_not_depend_on_the_temperature(tmp_path: Path) -> None:
    limits = []
    for temperature in (0.5, 1.5):
        runs = [
            write_toy_run(
                tmp_path / f"{temperature}-{order}",
                questions=200,
                temperature=temperature,
                rounding=0.01,
                order=order,
                top_k=40,
            ).root
            for order in (1, 2)
        ]
        limits.append(measure_noise_floor(*runs).near_tie_limit)
    assert limits[0] == pytest.approx(limits[1], rel=0.5)


def test_runs_without_a_difference_keep_the_default(tmp_path: Path) -> None:
    runs = [write_toy_run(tmp_path / name, dtype="float16").root for name in ("a", "b")]
    floor = measure_noise_floor(*runs)
    assert (floor.near_tie_limit, floor.measured, floor.divergences) == (0.0625, False, 0)


def test_too_few_divergences_give_the_default_limit(tmp_path: Path) -> None:
    runs = [
        write_toy_run(tmp_path / str(order), questions=20, temperature=0.0, rounding=0.01, order=order).root
        for order in (1, 2)
    ]
    floor = measure_noise_floor(*runs)
    assert 0 < floor.divergences < LEAST_DIVERGENCES
    assert (floor.near_tie_limit, floor.measured) == (0.5, False)


def test_runs_that_do_not_repeat_each_other_are_refused(tmp_path: Path) -> None:
    first, other_draws = write_toy_run(tmp_path / "a"), write_toy_run(tmp_path / "b", draws=1)
    with pytest.raises(ConfigError, match=r"do not repeat each other: .*redrawn"):
        measure_noise_floor(first.root, other_draws.root)


def test_runs_without_top_logprobs_are_refused(tmp_path: Path) -> None:
    runs = [
        write_toy_run(tmp_path / str(order), temperature=0.0, rounding=0.1, order=order, top_k=0).root
        for order in (1, 2)
    ]
    with pytest.raises(ConfigError, match="top logprobs stored"):
        measure_noise_floor(*runs)


def test_runs_without_a_success_in_common_are_refused(tmp_path: Path) -> None:
    runs = [write_toy_run(tmp_path / name, shards=1) for name in ("a", "b")]
    edit(runs[0].rollouts(0), pl.lit("too long").alias("error"))
    with pytest.raises(ConfigError, match="nothing can be measured"):
        measure_noise_floor(runs[0].root, runs[1].root)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"source_run_ids": ["a", "b"], "near_tie_limit": 1}', "{"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "floor.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"floor\.json is damaged: .* not a noise floor"):
        read_noise_floor(path)
