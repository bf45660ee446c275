"""Which engines that share a GPU are told the size of their KV cache, and that it leaves room for all else."""

import json
from pathlib import Path
from typing import Any

import pytest

from profiles.engine_settings import EngineSettings
from tasks.generation.engine import EngineSpec
from tasks.generation.vllm_requests import engine_arguments
from tasks.node.auto_batch import auto_engine
from tasks.node.memory_budget import MemoryBudget
from tasks.node.shared_cache import planned_cache_bytes
from tasks.units import GIB
from tests.tasks.node.test_gpu_sharing import shared
from tests.tasks.node.test_memory_plan import LLAMA_70B, QWEN_7B

H200 = 143_171 << 20
MEASURED_TOKENS, TOKEN_BYTES = 915_920, 57_344
"""What vLLM measured for each of two engines with QWEN_7B on an H200 (infra/gpu-bench/RESULTS.md)."""


def planned(folder: Path, config: dict[str, Any], gpu_bytes: int | None, **engine: Any) -> int | None:
    (folder / "config.json").write_text(json.dumps(config))
    profile = shared(2, load_format="dummy", **engine)
    return planned_cache_bytes(profile, folder, auto_engine(profile, 1024), gpu_bytes=gpu_bytes)


@pytest.mark.parametrize(
    ("config", "gpu_bytes", "engine"),
    [
        pytest.param(QWEN_7B, None, {}, id="memory unknown"),
        pytest.param(QWEN_7B, 16 * GIB, {}, id="no room"),
        pytest.param(LLAMA_70B, H200, {}, id="weights larger than the part"),
        pytest.param(QWEN_7B, H200, {"quantization": "fp8"}, id="quantized"),
        pytest.param(QWEN_7B, H200, {"vllm": {"kv_cache_memory_bytes": GIB}}, id="the profile passes settings on"),
        pytest.param(QWEN_7B, H200, {"backend": "a.b:C"}, id="another engine"),
        pytest.param(QWEN_7B | {"architectures": ["Unknown"], "layer_types": ["mamba"]}, H200, {}, id="layers unknown"),
    ],
)
def test_an_engine_measures_where_the_plan_is_not_sure(
    tmp_path: Path, config: dict[str, Any], gpu_bytes: int | None, engine: dict[str, Any]
) -> None:
    assert planned(tmp_path, config, gpu_bytes, **engine) is None


def test_two_engines_are_told_what_leaves_room_for_the_rest_and_hardly_less_than_they_measured(tmp_path: Path) -> None:
    told = planned(tmp_path, QWEN_7B, H200)
    assert told is not None
    memory = MemoryBudget(shared(2, load_format="dummy"), tmp_path, H200, "H200")
    assert memory.weight_bytes is not None
    assert 2 * (told + memory.weight_bytes) + 3 * GIB < 0.95 * H200
    assert 0.95 * MEASURED_TOKENS < told / TOKEN_BYTES < MEASURED_TOKENS


@pytest.mark.parametrize("size", [None, 5 * GIB])
def test_vllm_is_told_the_size(size: int | None) -> None:
    spec = EngineSpec(model_path=Path("model"), settings=EngineSettings(), kv_cache_bytes=size)
    assert engine_arguments(spec).get("kv_cache_memory_bytes") == size
