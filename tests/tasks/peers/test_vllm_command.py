"""What contestants tell vLLM: only which model runs in how much memory."""

from pathlib import Path
from typing import Any

import pytest

from profiles.engine_settings import EngineSettings
from tasks.generation.engine import EngineSpec
from tasks.peers.default_engine import default_arguments, default_environment, feature_arguments
from tasks.peers.vllm_command import as_words, serve_options

COMMON = {
    "model": "/model",
    "tensor_parallel_size": 1,
    "dtype": "bfloat16",
    "max_model_len": 2048,
    "gpu_memory_utilization": 0.9,
    "load_format": "auto",
    "trust_remote_code": False,
    "logprobs_mode": "processed_logprobs",
    "generation_config": "vllm",
}
TUNED = {"max_num_seqs": 64, "max_num_batched_tokens": 4096, "cudagraph_capture_sizes": (1, 2), "enforce_eager": True}
PASSED_ON = {"kv_cache_dtype": "fp8", "speculative_config": {"method": "ngram"}}
ON_CPU = {"kv_cache_space_gib": 1, "enforce_eager": True}


def spec(**settings: Any) -> EngineSpec:
    return EngineSpec(model_path=Path("/model"), settings=EngineSettings(**settings))


@pytest.mark.parametrize(
    ("settings", "seeded", "more"),
    [
        ({}, False, {}),
        (TUNED, False, {}),
        (TUNED, True, {}),
        ({"tensor_parallel_size": 2, "quantization": "fp8"}, True, {"tensor_parallel_size": 2, "quantization": "fp8"}),
        ({"pipeline_parallel_size": 2}, False, {"pipeline_parallel_size": 2}),
        ({"vllm": PASSED_ON}, False, PASSED_ON),
        (ON_CPU, False, {"enforce_eager": True}),
        # vLLM's CPU backend crashes on seeds with prompts in chunks
        (ON_CPU, True, {"enforce_eager": True, "enable_chunked_prefill": False}),
    ],
)
def test_all_but_the_model_and_the_memory_is_left_to_vllm(
    settings: dict[str, Any], seeded: bool, more: dict[str, Any]
) -> None:
    assert default_arguments(spec(**settings), seeded=seeded) == COMMON | more


@pytest.mark.parametrize("steps", [{}, {"max_num_seqs": 128}, {"max_num_seqs": 128, "max_num_batched_tokens": 4096}])
def test_features_have_the_pipelines_steps_where_a_profile_states_them(steps: dict[str, int]) -> None:
    assert feature_arguments(spec(**steps)) == COMMON | steps


@pytest.mark.parametrize("inherited", [{}, {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}])
def test_the_process_of_the_engine_core_is_vllms_choice_or_the_users(inherited: dict[str, str]) -> None:
    found = default_environment(EngineSettings(), inherited)
    assert found.get("VLLM_ENABLE_V1_MULTIPROCESSING") == inherited.get("VLLM_ENABLE_V1_MULTIPROCESSING")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, []),
        ({"max-model-len": 2048, "dtype": "auto"}, ["--max-model-len=2048", "--dtype=auto"]),
        ({"enforce-eager": True, "enable-chunked-prefill": False}, ["--enforce-eager", "--no-enable-chunked-prefill"]),
        ({"kv-cache-dtype-skip-layers": ["0", "1"]}, ["--kv-cache-dtype-skip-layers", "0", "1"]),
        ({"speculative-config": {"method": "ngram"}}, ['--speculative-config={"method": "ngram"}']),
    ],
)
def test_options_become_words(options: dict[str, Any], words: list[str]) -> None:
    assert as_words(options) == words


def test_a_server_gets_the_same_arguments() -> None:
    assert serve_options(spec(**ON_CPU)) == {
        name.replace("_", "-"): value
        for name, value in default_arguments(spec(**ON_CPU), seeded=True).items()
        if name != "model"
    }
