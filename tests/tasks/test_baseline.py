from pathlib import Path

import polars as pl
import pytest

from tasks.baseline import check_baseline
from tasks.baseline_sample import sample_questions
from tasks.errors import ConfigError
from tasks.noise_floor import NoiseFloor
from tasks.noise_memory import recall_noise_floor, remember_noise_floor
from tasks.run_config import config_from_parameters
from tasks.run_plan import plan_run
from tests.toy_model import write_toy_run

QUESTIONS = pl.DataFrame({"example_id": [f"q{number}" for number in range(500)]})


def test_a_sample_is_seeded_ordered_and_nested() -> None:
    small, large = (sample_questions(QUESTIONS, count, seed=0)["example_id"].to_list() for count in (64, 149))
    assert (len(small), len(large)) == (64, 149)
    assert set(small) < set(large)
    assert large == [name for name in QUESTIONS["example_id"] if name in set(large)]
    assert small != sample_questions(QUESTIONS, 64, seed=1)["example_id"].to_list()


def test_a_small_dataset_is_taken_whole() -> None:
    assert sample_questions(QUESTIONS.head(10), 149, seed=0).equals(QUESTIONS.head(10))


def test_auto_needs_a_profile_that_names_its_baseline(tmp_path: Path) -> None:
    plan = plan_run(config_from_parameters({"profile": "cpu-demo-baseline", "questions": 4}), tmp_path)
    with pytest.raises(ConfigError, match="cpu-demo-baseline names no baseline"):
        check_baseline("auto", plan)


def test_a_noise_floor_is_found_again_by_runs_that_compute_alike(tmp_path: Path) -> None:
    same, other_order, other_dtype = (
        write_toy_run(tmp_path / name, **settings).root  # type: ignore[arg-type]
        for name, settings in (
            ("same", {}),
            ("order", {"tested": {"question_batch_size": 1}}),
            ("dtype", {"dtype": "float16"}),
        )
    )
    floor = NoiseFloor(
        near_tie_limit=0.1,
        measured=True,
        divergence_rate=0.1,
        flip_rate=0.01,
        divergences=2,
        rollouts=20,
        dtype="bfloat16",
        source_run_ids=("a", "b"),
    )
    assert recall_noise_floor(same, tmp_path) is None
    remember_noise_floor(floor, same, tmp_path)
    assert recall_noise_floor(other_order, tmp_path / "elsewhere", tmp_path) == floor
    assert recall_noise_floor(other_dtype, tmp_path) is None
