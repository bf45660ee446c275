"""The table ``[engine.vllm]``: which fields of EngineArgs a profile passes on, and what is said of the others."""

import re
from pathlib import Path
from typing import Any

import pytest

from profiles.engine_settings import EngineSettings
from profiles.load import PROFILES_DIR, SettingsError, load_profile, parse_settings
from profiles.profile_text import profile_text
from profiles.schema import Profile
from profiles.vllm_arguments import Argument, installed_arguments
from profiles.vllm_keys import REFUSED, RETIRED_ENGINE_KEYS, check_keys, why_refused

OWN = tuple(EngineSettings.model_fields)
NOT_VLLM = {"batch_invariant", "kv_cache_space_gib", "core_process", "nodes_per_replica", "backend", "vllm"}
"""Settings of ours that are no fields of EngineArgs."""


def fields() -> dict[str, Argument]:
    found = installed_arguments()
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("key", "takes", "refuses"),
    [
        ("async_scheduling", [True, False], [1, "true"]),
        ("block_size", [16], [True, 16.0, "16"]),
        ("cpu_offload_gb", [4, 4.5], [True, "4"]),
        ("kv_cache_dtype", ["auto", "fp8"], ["fp9", 8, True]),
        ("max_lora_rank", [16], [17, True]),
        ("scheduling_policy", ["priority"], ["lifo"]),
        ("model_impl", ["transformers"], [1]),
        ("speculative_config", [{"method": "ngram"}], ["ngram", []]),
        ("compilation_config", [{"mode": 3}], [3]),
        ("cpu_offload_params", [["experts"]], ["experts"]),
        ("served_model_name", ["a", ["a", "b"]], [1]),
        ("quantization_config", [{"linear": "fp8"}], [1]),
        ("attention_backend", ["TRITON_ATTN"], []),
    ],
)
def test_what_a_field_of_the_installed_vllm_takes(key: str, takes: list[Any], refuses: list[Any]) -> None:
    argument = fields()[key]
    assert [argument.takes(value) for value in takes] == [True] * len(takes)
    assert [argument.takes(value) for value in refuses] == [False] * len(refuses)


def test_the_lists_name_fields_that_there_are() -> None:
    """A field that vLLM renames would otherwise pass unseen."""
    assert REFUSED.keys() - fields().keys() == {"vllm"}
    assert set(OWN) - fields().keys() == NOT_VLLM
    assert not RETIRED_ENGINE_KEYS.keys() & fields().keys()
    assert not any(name.startswith("_") for name in fields())


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"kv_cache_dtyp": "fp8"}, "kv_cache_dtyp is no field of EngineArgs in vLLM .*Did you mean kv_cache_dtype"),
        ({"max_num_seq": 3}, "Did you mean max_num_seqs"),
        ({"zzz": 3}, "zzz is no field of EngineArgs in vLLM [0-9.]+. vLLM's documentation"),
        ({"kv_cache_dtype": "fp9"}, "kv_cache_dtype is 'fp9'; vLLM [0-9.]+ takes 'auto', 'float16'"),
        ({"block_size": True}, "block_size is True; vLLM [0-9.]+ takes a whole number"),
        ({"max_num_seqs": 3}, "max_num_seqs is a setting of its own. Put it into .engine."),
        ({"pipeline_parallel_size": 2}, "pipeline_parallel_size is a setting of its own"),
        ({"swap_space": 4}, "swap_space is no longer an engine argument: .*kv_offloading_size in .engine.vllm."),
        ({"model": "x"}, "model is not passed on: .*--model"),
        ({"tokenizer": "x"}, "tokenizer is not passed on: .*tokenizer of the model's directory"),
        ({"seed": 1}, "--seed"),
        ({"logprobs_mode": "raw_logprobs"}, "always processed_logprobs"),
        ({"max_logprobs": 30}, "--top-logprobs"),
        ({"enable_lora": True}, "--adapter"),
        ({"return_sampling_mask": True}, "--sampling-mask"),
        ({"enable_return_routed_experts": True}, "--routed-experts"),
        ({"generation_config": "auto"}, "--temperature"),
        ({"skip_tokenizer_init": True}, "tokenizer of the model's directory"),
        ({"disable_log_stats": True}, "telemetry and report"),
        ({"data_parallel_size": 2}, "replicas = N .*enable_expert_parallel"),
        ({"data_parallel_rank": 2}, "replicas = N"),
        ({"distributed_executor_backend": "ray"}, "die with the run.*nodes_per_replica with --nodes"),
        ({"prefill_context_parallel_size": 2}, "tensor_parallel_size x pipeline_parallel_size"),
        ({"hf_token": "secret"}, "HF_TOKEN"),
        ({"compilation_config": {"max_cudagraph_capture_size": 8}}, "Put max_cudagraph_capture_size into .engine."),
        ({"attention_config": {"backend": "X"}}, "Put attention_backend into .engine."),
        ({"vllm": {}}, "Give its fields one by one"),
        ({"hf_overrides": {"rope": [float("nan")]}}, "hf_overrides holds nan"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_not_passed_on(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_keys(table, OWN)


def test_a_secret_is_not_repeated() -> None:
    with pytest.raises(ValueError, match="hf_token") as caught:
        check_keys({"hf_token": "hf_abc"}, OWN)
    assert "hf_abc" not in str(caught.value)


@pytest.mark.parametrize("key", sorted(REFUSED))
def test_each_refusal_says_what_to_do(key: str) -> None:
    why = why_refused(key)
    assert why is not None
    assert re.search(r"\b([Gg]ive|[Ss]et|[Uu]se|Put|Leave|always)\b", why), why


def test_a_stored_profile_of_another_vllm_can_be_read() -> None:
    stored = load_profile("cpu-demo").model_dump() | {"engine": {"vllm": {"a_field_of_before": 3}}}
    assert Profile.model_validate(stored).engine.vllm == {"a_field_of_before": 3}
    with pytest.raises(SettingsError, match="a_field_of_before is no field of EngineArgs"):
        parse_settings(stored, Profile, "own.toml")


def test_the_guide_names_what_is_refused() -> None:
    guide = (PROFILES_DIR / "README.md").read_text()
    assert [key for key in REFUSED if key != "vllm" and f"`{key}`" not in guide] == []


def test_a_profile_has_any_field_of_vllm(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(
        'name = "own"\n[engine]\nmax_num_seqs = 4\n[engine.vllm]\nkv_cache_dtype = "fp8"\nasync_scheduling = false\n'
        'speculative_config = { method = "ngram", num_speculative_tokens = 3, "a b" = [1.5, "\\u007f"] }\n'
    )
    profile = load_profile(str(path))
    assert profile.engine.vllm["speculative_config"]["num_speculative_tokens"] == 3
    again = tmp_path / "again.toml"
    again.write_text(profile_text(profile), encoding="utf-8")
    assert load_profile(str(again)) == profile
    assert "\n[engine.vllm]\n" in again.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[engine]\nkv_cache_dtype = 'fp8'", "engine.kv_cache_dtype is a field of vLLM's EngineArgs. Put it into the"),
        ("[engine]\nseed = 3", "engine.seed is not passed on: .*--seed"),
        ("[engine]\nmax_num_sequences = 3", "unknown key engine.max_num_sequences. Did you mean max_num_seqs"),
        ("[engine.vllm]\nblock_sice = 3", "engine.vllm: block_sice is no field .*Did you mean block_size"),
        ("[engine.vllm]\nhf_overrides = { day = 2026-01-01 }", "engine.vllm: hf_overrides holds datetime.date"),
        ("[engine]\nvllm = 3", "engine.vllm is 3"),
    ],
)
def test_a_wrong_key_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(f'name = "own"\n{text}\n')
    with pytest.raises(SettingsError, match=message) as caught:
        load_profile(str(path))
    assert "\n" not in str(caught.value)
