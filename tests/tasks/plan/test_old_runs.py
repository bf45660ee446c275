"""A run directory from before engines had names: the same command resumes it and generates nothing again."""

import json
import shutil
from pathlib import Path

import pytest

from tasks.plan.fingerprint import engine_versions
from tasks.plan.run_config import config_from_parameters
from tasks.plan.run_directory import open_run
from tasks.plan.run_plan import RunPlan, plan_run
from tasks.plan.shards import shard_dataset
from tasks.plan.waves import find_remaining

OLD_RUNS = Path(__file__).parents[2] / "data" / "runs_without_engine_names"
RUN_ID = "cpu-demo-demo-demo-8e26179c6e"
"""Made by ``harvest run --questions 8 --shard-size 4 --max-tokens 32``; without logs, report and telemetry."""
PARAMETERS = {"questions": 8, "shard_size": 4, "max_tokens": 32}


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    versions = json.loads((OLD_RUNS / RUN_ID / "config.json").read_text())["tested"]["versions"]
    if versions != engine_versions():
        pytest.skip(f"the run was made with {versions}, but {engine_versions()} are installed: the fingerprints differ")
    return Path(shutil.copytree(OLD_RUNS, tmp_path / "runs"))


@pytest.fixture
def plan(runs_dir: Path) -> RunPlan:
    return plan_run(config_from_parameters(PARAMETERS), runs_dir)


def test_the_same_parameters_give_the_same_run(plan: RunPlan) -> None:
    recorded = json.loads((OLD_RUNS / RUN_ID / "config.json").read_text())
    assert (plan.run_id, plan.fingerprint) == (RUN_ID, recorded["fingerprint"])
    assert plan.tested == recorded["tested"]


def test_every_shard_is_generated_and_is_scored_again_by_the_newer_scorer(plan: RunPlan) -> None:
    open_run(plan)
    shards = shard_dataset(plan)
    assert len(shards) == plan.num_shards == 2
    remaining = find_remaining(plan, shards)
    assert (remaining.to_generate, remaining.to_score) == ([], shards)
