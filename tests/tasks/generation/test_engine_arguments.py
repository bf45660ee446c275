"""What vLLM is told: our settings under its names, and the fields that a profile passes on."""

from pathlib import Path
from typing import Any

import pytest

from profiles.engine_settings import EngineSettings
from tasks.generation.engine import EngineSpec
from tasks.generation.vllm_requests import engine_arguments

NGRAM = {"method": "ngram", "num_speculative_tokens": 3}


def spec(**engine: Any) -> EngineSpec:
    return EngineSpec(model_path=Path("/model"), settings=EngineSettings(**engine))


@pytest.mark.parametrize(
    ("engine", "told"),
    [
        ({}, {"max_num_seqs": 256, "logprobs_mode": "processed_logprobs", "pipeline_parallel_size": 1}),
        ({"pipeline_parallel_size": 2}, {"pipeline_parallel_size": 2, "distributed_executor_backend": None}),
        (
            {"pipeline_parallel_size": 2, "nodes_per_replica": 2},
            {"distributed_executor_backend": "ray", "nodes_per_replica": None, "nnodes": None},
        ),
        ({"vllm": {"kv_cache_dtype": "fp8", "speculative_config": NGRAM}}, {"kv_cache_dtype": "fp8"}),
        ({"vllm": {"speculative_config": NGRAM}}, {"speculative_config": NGRAM}),
    ],
)
def test_vllm_is_told(engine: dict[str, Any], told: dict[str, Any]) -> None:
    arguments = engine_arguments(spec(**engine))
    assert {name: arguments.get(name) for name in told} == told
    assert "vllm" not in arguments
