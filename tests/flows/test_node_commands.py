"""``harvest preflight`` and ``harvest plan`` as a user runs them, also on a node that looks like 8 H100s."""

import json
import shutil
from pathlib import Path

import pytest

from profiles.load import DEMO_MODEL
from tests.harvest_command import harvest


def test_the_demo_profile_passes_here(tmp_path: Path) -> None:
    outcome = harvest("preflight", "--json", "--runs-dir", tmp_path)
    assert outcome.code == 0, outcome.stderr
    assert outcome.report["worst"] in ("pass", "warn")
    assert {check["name"] for check in outcome.report["checks"]} >= {"model files", "memory plan", "disk"}


def test_a_gpu_profile_without_a_driver_says_which_profile_fits(tmp_path: Path) -> None:
    outcome = harvest("preflight", "--profile", "h100x8", "--runs-dir", tmp_path)
    if "no NVIDIA driver" not in outcome.stdout:
        pytest.skip("this machine has an NVIDIA driver")
    assert outcome.code == 1
    assert "cpu-demo" in outcome.stdout


@pytest.mark.parametrize(("name", "damage"), [("model.safetensors", "truncate"), ("tokenizer.json", "remove")])
def test_a_damaged_model_is_named(tmp_path: Path, name: str, damage: str) -> None:
    model = tmp_path / "model"
    shutil.copytree(DEMO_MODEL, model)
    if damage == "remove":
        (model / name).unlink()
    else:
        (model / name).write_bytes((model / name).read_bytes()[:-100])
    for command in ("preflight", "run"):
        outcome = harvest(command, "--model", model, "--runs-dir", tmp_path / "runs")
        assert outcome.code == 2
        assert name.split(".")[0] in outcome.stdout + outcome.stderr
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").glob("*/logs"))


def test_plan_measures_the_dataset_and_advises(tmp_path: Path) -> None:
    outcome = harvest("plan", "--json", "--questions", "8", "--max-tokens", "64", "--runs-dir", tmp_path)
    assert outcome.code == 0, outcome.stderr
    value = json.loads(outcome.stdout)
    assert value["plan"]["kv_tokens"] > 0
    assert value["prompts"]["longest"] < 200
    assert any(advice["setting"] == "max_model_len" for advice in value["advice"])
