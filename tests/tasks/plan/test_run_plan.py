import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from profiles.load import DEMO_MODEL, PROFILES_DIR
from tasks.errors import ConfigError
from tasks.plan.run_config import build_config, config_from_parameters
from tasks.plan.run_plan import DEFAULT_SHARDS, RunPlan, default_shard_size, plan_run


def plan(runs_dir: Path, **parameters: Any) -> RunPlan:
    return plan_run(config_from_parameters({"questions": 8, **parameters}), runs_dir)


def test_planning_writes_nothing(tmp_path: Path) -> None:
    made = plan(tmp_path / "runs")
    assert (made.num_rollouts, made.num_shards) == (64, 1)
    assert not (tmp_path / "runs").exists()


def test_a_run_id_is_no_longer_than_a_file_name_can_be(tmp_path: Path) -> None:
    dataset = tmp_path / f"{'q' * 249}.jsonl"
    dataset.write_text('{"question": "1 + 1?", "answer": "2"}')
    run_id = plan(tmp_path, dataset=str(dataset), questions=1).run_id
    (tmp_path / run_id).mkdir()
    assert len(run_id) == 255


def test_the_same_configuration_is_the_same_run(tmp_path: Path) -> None:
    assert plan(tmp_path).run_id == plan(tmp_path).run_id


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0.8},
        {"top_p": 0.9},
        {"max_tokens": 64},
        {"seed": 1},
        {"samples_per_arm": 2},
        {"sample_until": "mixed", "max_samples_per_arm": 4},
        {"top_logprobs": 5},
        {"questions": 9},
        {"split": "train"},
        {"shard_size": 4},
        {"question_batch_size": 3},
        {"profile": "cpu-demo-baseline"},
    ],
    ids=str,
)
def test_a_setting_that_changes_outputs_changes_the_run(tmp_path: Path, change: dict[str, Any]) -> None:
    assert plan(tmp_path, **change).fingerprint != plan(tmp_path).fingerprint


@pytest.mark.parametrize("change", [{"scorer": "math"}, {"name": "other"}], ids=str)
def test_a_setting_that_changes_no_output_keeps_the_fingerprint(tmp_path: Path, change: dict[str, Any]) -> None:
    assert plan(tmp_path, **change).fingerprint == plan(tmp_path).fingerprint


@pytest.mark.parametrize(
    "change",
    [{"scorer": "math"}, {"right_at": 0.5}, {"wave_size": 2}, {"max_samples_per_arm": 5}, {"sample_until": "mixed:2"}],
    ids=str,
)
def test_what_decides_when_a_group_stops_changes_a_run_with_a_rule(tmp_path: Path, change: dict[str, Any]) -> None:
    rule = {"sample_until": "mixed", "max_samples_per_arm": 4}
    assert plan(tmp_path, **rule | change).fingerprint != plan(tmp_path, **rule).fingerprint
    # written in another way, it is the same rule
    assert plan(tmp_path, **rule, wave_size=1).fingerprint == plan(tmp_path, **rule).fingerprint


def test_arms_and_weights_are_part_of_the_fingerprint(tmp_path: Path) -> None:
    arms = tmp_path / "arms.toml"
    arms.write_text('[[arms]]\nid = "a"\nsystem_prompt = "Be brief."\n')
    first = plan(tmp_path, arms=str(arms)).fingerprint
    arms.write_text('[[arms]]\nid = "a"\nsystem_prompt = "Be brief!"\n')
    assert plan(tmp_path, arms=str(arms)).fingerprint != first

    model = tmp_path / "model"
    shutil.copytree(DEMO_MODEL, model)
    same = plan(tmp_path, model=str(model))
    assert same.fingerprint == plan(tmp_path).fingerprint  # where the files are does not matter
    weights = model / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1000] ^= 1
    weights.write_bytes(data)
    assert plan(tmp_path, model=str(model)).fingerprint != same.fingerprint


def test_a_baseline_differs_only_in_tested_settings(tmp_path: Path) -> None:
    ours, baseline = plan(tmp_path), plan(tmp_path, profile="cpu-demo-baseline", shard_size=4)
    assert ours.comparable == baseline.comparable
    assert ours.tested != baseline.tested


@pytest.mark.parametrize(("questions", "batch"), [(1, 16), (64, 16), (1_319, 16), (7_473, 24), (1_000_000, 16)])
def test_the_default_shard_size_bounds_the_task_runs(questions: int, batch: int) -> None:
    size = default_shard_size(questions, batch, 8)
    assert size >= batch
    assert -(-questions // size) <= DEFAULT_SHARDS


@pytest.mark.parametrize(("per_question", "size"), [(1, 256), (8, 32), (64, 16)])
def test_shards_of_a_chosen_batch_do_not_depend_on_the_node(per_question: int, size: int) -> None:
    assert default_shard_size(100, "auto", per_question) == size


def test_a_stated_batch_has_the_fingerprint_that_it_had_before_batches_were_chosen(tmp_path: Path) -> None:
    found = plan(tmp_path, profile="h100x8", model="demo", question_batch_size=16, shard_size=16)
    assert {name: value for name, value in found.tested.items() if name != "versions"} == {
        "profile": "h100x8", "generation": "continuous", "question_batch_size": 16, "replicas": 1,
        "tensor_parallel_size": 8, "dtype": "bfloat16", "max_model_len": 2048, "gpu_memory_utilization": 0.95,
        "enforce_eager": False, "enable_chunked_prefill": True, "enable_prefix_caching": True, "max_num_seqs": 256,
        "max_num_batched_tokens": None, "max_cudagraph_capture_size": None, "attention_backend": None,
        "batch_invariant": False, "kv_cache_space_gib": None, "quantization": None, "load_format": "auto",
        "trust_remote_code": False, "backend": "tasks.engine:VllmEngine", "shard_size": 16,
    }  # fmt: skip


def test_engines_that_share_a_gpu_are_another_run(tmp_path: Path) -> None:
    text = (PROFILES_DIR / "h200x1.toml").read_text().replace("description", "replicas = 2\ndescription", 1)
    shared, apart = tmp_path / "shared.toml", tmp_path / "apart.toml"
    apart.write_text(text.replace("gpu_count = 1", "gpu_count = 2"))
    shared.write_text(text.replace("description", "replicas_per_gpu = 2\ndescription", 1))
    found = [plan(tmp_path, profile=str(path), model="demo") for path in (apart, shared)]
    assert [one.tested.get("replicas_per_gpu") for one in found] == [None, 2]
    assert found[0].fingerprint != found[1].fingerprint


def test_the_fingerprint_of_a_chosen_batch_holds_what_is_stated(tmp_path: Path) -> None:
    found = plan(tmp_path, profile="h200x1", model="demo")
    assert (found.tested["question_batch_size"], found.tested["max_num_seqs"]) == ("auto", None)
    assert "cudagraph_capture_sizes" not in found.tested
    assert plan(tmp_path, profile="h200x1", model="demo", question_batch_size="auto").fingerprint == found.fingerprint
    assert plan(tmp_path, profile="h200x1", model="demo", question_batch_size=16).fingerprint != found.fingerprint


@pytest.mark.parametrize("core_process", ["true", "false"])
def test_the_process_of_the_engine_core_is_not_part_of_the_fingerprint(tmp_path: Path, core_process: str) -> None:
    profile = tmp_path / "own.toml"
    profile.write_text('name = "own"\nmodel = "demo"\n')
    found = plan(tmp_path, profile=str(profile)).fingerprint
    profile.write_text(f'name = "own"\nmodel = "demo"\n[engine]\ncore_process = {core_process}\n')
    assert plan(tmp_path, profile=str(profile)).fingerprint == found


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"profile": "nope"}, "unknown profile 'nope'"),
        ({"arms": "nope"}, "unknown arms 'nope'"),
        ({"model": "./nope"}, "'./nope' is not a directory"),
        ({"model": "nope"}, "'nope' is not a directory"),
        ({"profile": "h100x8"}, "names no model"),
        ({"max_tokens": 2048}, "max_tokens is 2048, but profile cpu-demo has max_model_len 2048"),
        ({"questions": 0}, "dataset.questions is 0"),
        ({"temperature": -1.0}, "sampling.temperature is -1.0"),
        ({"temperature": 0.0, "samples_per_arm": 2}, "samples_per_arm is 2 at temperature 0"),
        ({"question_batch_size": 0}, 'question_batch_size is 0: give a whole number from 1 to 65,536, or "auto"'),
        ({"question_batch_size": "all"}, "question_batch_size is 'all'"),
        ({"question_batch_size": 2.5}, "question_batch_size is 2.5"),
        (
            {"profile": "cpu-demo-baseline", "question_batch_size": "auto"},
            "waits for a whole batch, which needs a size",
        ),
        ({"name": "a/b"}, "name is 'a/b'"),
    ],
)
def test_bad_input_is_one_clear_error(tmp_path: Path, parameters: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)) as caught:
        plan(tmp_path, **parameters)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_the_error_names_the_missing_model_file(tmp_path: Path, missing: str) -> None:
    model = tmp_path / "model"
    shutil.copytree(DEMO_MODEL, model)
    (model / missing).unlink()
    with pytest.raises(ConfigError, match=missing.split(".")[0]):
        plan(tmp_path, model=str(model))


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown key sampling\.temprature"):
        build_config({"sampling": {"temprature": 1.0}})
