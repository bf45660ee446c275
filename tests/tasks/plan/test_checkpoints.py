"""A pattern means all complete checkpoints, in the order of their steps; those of one collection fit one engine."""

import json
import os
import shutil
from pathlib import Path

import pytest

from profiles.load import DEMO_MODEL
from tasks.errors import ConfigError
from tasks.plan.checkpoint_plans import plan_checkpoints
from tasks.plan.checkpoints import find_checkpoints, step_key, steps_of
from tasks.plan.run_config import RunConfig
from tasks.plan.run_plan import RunPlan, plan_run


@pytest.mark.parametrize(
    "names",
    [
        ["step-900", "step-1000"],
        ["checkpoint-2", "checkpoint-10", "checkpoint-100"],
        ["epoch-1-step-500", "epoch-2-step-100"],
        ["global_step_9/actor/huggingface", "global_step_10/actor/huggingface"],
        ["final", "step-1"],
    ],
)
def test_names_are_ordered_by_their_numbers(names: list[str]) -> None:
    assert sorted(names[1:] + names[:1], key=step_key) == names


@pytest.mark.parametrize(
    ("names", "steps"),
    [
        (["run7/step-900", "run7/step-1000"], [900, 1000]),
        (["qwen2.5-7b/step-5/hf4", "qwen2.5-7b/step-50/hf4"], [5, 50]),
        (["epoch-1-step-500", "epoch-2-step-1000"], [500, 1000]),
        (["epoch-1-step-500", "epoch-2-step-500"], [1, 2]),
        (["base", "step-5"], [1, 2]),
        (["step-5"], [1]),
    ],
)
def test_the_step_is_the_last_number_that_differs(names: list[str], steps: list[int]) -> None:
    assert steps_of(names) == steps


def test_incomplete_checkpoints_are_named_and_left_out(tmp_path: Path) -> None:
    for step in (1000, 900):
        make_model(tmp_path / f"step-{step}")
    half = make_model(tmp_path / "step-1300") / "model.safetensors"
    half.write_bytes(half.read_bytes()[:1000])
    (tmp_path / "step-1200").mkdir()
    (tmp_path / "step-log.txt").touch()
    found = find_checkpoints(str(tmp_path / "step-*"))
    assert [path.name for path in found.complete] == ["step-900", "step-1000"]
    assert [told.partition(":")[0] for told in found.incomplete] == ["step-1200", "step-1300"]
    assert "truncated" in found.incomplete[1]


def test_names_without_numbers_are_ordered_by_the_age_of_their_weights(tmp_path: Path) -> None:
    for age, name in enumerate(("c", "a", "b")):
        os.utime(make_model(tmp_path / name) / "model.safetensors", (1_000_000 + age, 1_000_000 + age))
    found = find_checkpoints(str(tmp_path / "*"))
    assert [path.name for path in found.complete] == ["c", "a", "b"]
    assert found.newest.name == "b"


@pytest.mark.parametrize(
    ("file", "change", "told"),
    [
        ("config.json", {"hidden_size": 256}, "hidden_size in config.json: 256 and 128"),
        ("config.json", {"rope_scaling": {"factor": 2}}, "rope_scaling in config.json"),
        ("tokenizer.json", {"version": "2"}, "tokenizer"),
        ("generation_config.json", {"eos_token_id": 7}, "eos_token_id in generation_config.json"),
        ("chat_template.jinja", "{{ messages[0]['content'] }}", "chat template"),
    ],
)
def test_the_first_checkpoint_that_differs_is_named(
    tmp_path: Path, file: str, change: dict[str, object] | str, told: str
) -> None:
    models = [make_model(tmp_path / f"step-{step}", step) for step in (1, 2, 3)]
    changed = models[1] / file
    changed.write_text(change if isinstance(change, str) else json.dumps(json.loads(changed.read_text()) | change))
    with pytest.raises(ConfigError, match=told) as error:
        plan_checkpoints(plan_of(models[0], tmp_path), [str(model) for model in models])
    assert str(models[1]) in str(error.value)


def test_each_checkpoint_is_a_run_and_a_copy_is_not_another(tmp_path: Path) -> None:
    models = [make_model(tmp_path / f"step-{step}", step) for step in (1, 2)]
    copy = shutil.copytree(models[1], tmp_path / "step-3")
    first = plan_of(models[0], tmp_path)
    plans = plan_checkpoints(first, [*map(str, models), str(copy)])
    assert [plan.model.path.name for plan in plans][:2] == ["step-1", "step-2"]
    assert plans[0] is first
    assert len({plan.fingerprint for plan in plans}) == 2
    # the run is the one of a command that names the directory
    assert plans[1].run_id == plan_of(models[1], tmp_path).run_id
    assert plan_checkpoints(first, "all") == (first,)


def make_model(path: Path, step: int = 0) -> Path:
    """A copy of the demo model whose config.json has a version of its own, and so a digest of its own."""
    shutil.copytree(DEMO_MODEL, path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"transformers_version": f"5.{step}"}))
    return path


def plan_of(model: Path, folder: Path) -> RunPlan:
    return plan_run(RunConfig(profile="cpu-demo", model=str(model)), folder / "runs")
