"""``--engine key=value``: settings of the engine that a run changes, and that are part of what it is."""

from pathlib import Path
from typing import Any

import pytest

from profiles.load import load_profile
from tasks.errors import ConfigError
from tasks.plan.engine_options import changed_profile, engine_options_text, read_engine_options
from tasks.plan.run_config import CONFIG_PARAMETERS, config_from_parameters, parameters_of_config
from tasks.plan.run_plan import RunPlan, plan_run


def plan(runs_dir: Path, *engine: str, **parameters: Any) -> RunPlan:
    given = {"questions": 8, "profile": "cpu-demo", "engine": list(engine) or None, **parameters}
    return plan_run(config_from_parameters(given), runs_dir)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("fp8", "fp8"),
        ("true", True),
        ("True", "True"),
        ("4096", 4096),
        ("1_000", 1000),
        ("0.5", 0.5),
        ('"4096"', "4096"),
        ("'a b'", "a b"),
        ("null", None),
        ("nan", "nan"),
        ("2026-01-01", "2026-01-01"),
        ("a=b", "a=b"),
        ("", ""),
        ("[1, 2]", [1, 2]),
        ('{"method": "ngram", "k": 3}', {"method": "ngram", "k": 3}),
        ("{ method = 'ngram', k = 3 }", {"method": "ngram", "k": 3}),
    ],
)
def test_values_are_read_as_json_or_toml_or_are_words(text: str, value: Any) -> None:
    assert read_engine_options([f"key={text}"]) == {"key": value}
    assert read_engine_options(engine_options_text({"key": value})) == {"key": value}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["max_num_seqs"], "--engine 'max_num_seqs' has no value. Give KEY=VALUE"),
        (["=3"], "has no value"),
        (["block_size=16", "block_size=32"], "gives block_size twice"),
        (["speculative_config={'method': "], "neither JSON nor TOML"),
        (["kv_cache_dtyp=fp8"], "engine: kv_cache_dtyp is no field .*Did you mean kv_cache_dtype"),
        (["max_num_seq=3"], "Did you mean max_num_seqs"),
        (["swap_space=4"], "swap_space is no longer an engine argument"),
        (["seed=3"], "seed is not passed on: .*--seed"),
        (["async_scheduling=True"], "async_scheduling is 'True'; vLLM [0-9.]+ takes true or false"),
        (["max_num_seqs=0"], "--engine, with profile cpu-demo: engine.max_num_seqs is 0"),
        (["dtype=null"], "engine.dtype is None"),
        (["pipeline_parallel_size=2"], 'pipeline_parallel_size is 2, but expect.device is "cpu"'),
        (["kv_offloading_size=1"], 'kv_offloading_size is 1, but expect.device is "cpu"'),
        (["vllm={}"], "Give its fields one by one"),
        (["pipeline_parallel_size=2", "core_process=false"], "core_process is false, but pipeline_parallel_size is 2"),
    ],
)
def test_a_wrong_one_is_refused(tmp_path: Path, given: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        plan(tmp_path, *given)
    assert "\n" not in str(caught.value)


def test_a_setting_of_ours_changes_the_profile_and_another_is_passed_on(tmp_path: Path) -> None:
    found = plan(tmp_path, "max_num_seqs=8", "kv_cache_dtype=fp8")
    assert (found.profile.engine.max_num_seqs, found.profile.engine.vllm) == (8, {"kv_cache_dtype": "fp8"})
    assert (found.tested["max_num_seqs"], found.tested["kv_cache_dtype"]) == (8, "fp8")
    given = parameters_of_config(found.to_json()["config"])
    assert given["engine"] == {"max_num_seqs": 8, "kv_cache_dtype": "fp8"}
    assert config_from_parameters(given) == found.config


def test_none_leaves_a_field_to_vllm() -> None:
    profile = changed_profile(load_profile("cpu-demo"), {"kv_cache_dtype": "fp8", "block_size": 32})
    changed = changed_profile(profile, {"kv_cache_dtype": None, "max_num_seqs": None})
    assert (changed.engine.vllm, changed.engine.max_num_seqs) == ({"block_size": 32}, None)


def test_a_run_is_another_by_what_is_passed_on_and_the_same_without(tmp_path: Path) -> None:
    default = plan(tmp_path)
    assert "vllm" not in default.tested
    assert not {"pipeline_parallel_size", "nodes_per_replica"} & default.tested.keys()
    assert plan(tmp_path, engine={}).fingerprint == default.fingerprint
    others = [["block_size=32"], ["block_size=64"], ["max_num_seqs=4"], ["async_scheduling=false"]]
    assert len({default.fingerprint, *(plan(tmp_path, *given).fingerprint for given in others)}) == 5


def test_stages_are_part_of_the_run(tmp_path: Path) -> None:
    stages = [f"pipeline_parallel_size={count}" for count in (1, 2)]
    one, two = (plan(tmp_path, text, "tensor_parallel_size=4", profile="h100x8", model="demo") for text in stages)
    assert "pipeline_parallel_size" not in one.tested
    assert two.tested["pipeline_parallel_size"] == 2
    assert one.fingerprint != two.fingerprint


def test_the_nodes_of_a_replica_are_part_of_the_run_where_there_are_several(tmp_path: Path) -> None:
    nodes = [f"nodes_per_replica={count}" for count in (1, 2)]
    one, two = (plan(tmp_path, text, "tensor_parallel_size=4", profile="h100x8", model="demo") for text in nodes)
    assert ("nodes_per_replica" in one.tested, two.tested["nodes_per_replica"]) == (False, 2)
    assert one.fingerprint != two.fingerprint


@pytest.mark.parametrize(
    ("stated", "given"), [("block_size = 32", "block_size=32"), ("cpu_offload_gb = 4", "cpu_offload_gb=4.0")]
)
def test_a_profile_that_states_it_is_the_same_run(stated: str, given: str, tmp_path: Path) -> None:
    text = (Path("profiles") / "cpu-demo.toml").read_text()
    path = tmp_path / "own.toml"
    path.write_text(f"{text}\n[engine.vllm]\n{stated}\n")
    assert plan(tmp_path, profile=str(path)).fingerprint == plan(tmp_path, given).fingerprint


@pytest.mark.parametrize("given", ["block_size=32", 5])
def test_what_is_no_table_is_refused(given: Any) -> None:
    with pytest.raises(ConfigError, match="Give a table of settings"):
        read_engine_options(given)


def test_the_form_takes_a_table() -> None:
    assert CONFIG_PARAMETERS["engine"].is_table
    assert not CONFIG_PARAMETERS["chat_template_kwargs"].is_table
