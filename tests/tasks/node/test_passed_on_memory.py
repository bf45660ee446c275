"""What the fields of ``[engine.vllm]``, and an engine of several GPUs, do to the memory plan."""

import re
from pathlib import Path
from typing import Any

import pytest

from profiles.schema import Profile
from tasks.node.engine_memory import kv_bytes_per_token, kv_cache
from tasks.node.memory_plan import MemoryPlan, plan_memory
from tasks.node.node_checks import check_memory_plan
from tasks.node.passed_on_memory import host_bytes
from tasks.node.weight_memory import dense_tensors, weight_bytes_per_gpu
from tasks.plan.model_shape import read_shape
from tasks.plan.safetensors_header import TensorInfo
from tasks.units import GIB
from tests.support.safetensors_file import write_safetensors
from tests.tasks.node.test_memory_plan import LLAMA_8B, QWEN_7B, model_dir

QWEN_MOE = QWEN_7B | {"model_type": "qwen3_moe", "num_experts": 6, "num_experts_per_tok": 2}
GPU = 80 * GIB


def profile(vllm: dict[str, Any] | None = None, **engine: Any) -> Profile:
    return Profile.model_validate({"name": "test", "engine": {**engine, "vllm": vllm or {}}})


def plan(folder: Path, vllm: dict[str, Any] | None = None, **engine: Any) -> MemoryPlan:
    return plan_memory(profile(vllm, **engine), model_dir(folder, LLAMA_8B), gpu_bytes=GPU, gpu_name="H100")


@pytest.mark.parametrize(
    ("vllm", "engine", "per_token"),
    [
        ({}, {}, 131_072),
        ({"kv_cache_dtype": "auto"}, {}, 131_072),
        ({"kv_cache_dtype": "fp8"}, {}, 65_536),
        ({"kv_cache_dtype": "fp8_e5m2"}, {"tensor_parallel_size": 2}, 32_768),
        ({"kv_cache_dtype": "bfloat16"}, {"dtype": "float32"}, 131_072),
        # as in the engine's dtype, and the plan says so
        ({"kv_cache_dtype": "nvfp4"}, {}, 131_072),
        # 32 layers on 3 stages are 10, 11 and 11
        ({}, {"pipeline_parallel_size": 2}, 65_536),
        ({}, {"pipeline_parallel_size": 3}, 45_056),
    ],
)
def test_bytes_of_a_token(vllm: dict[str, Any], engine: dict[str, Any], per_token: int) -> None:
    settings = profile(vllm, **engine).engine
    assert kv_bytes_per_token(read_shape(LLAMA_8B, settings), settings) == per_token


@pytest.mark.parametrize(
    ("layers", "count", "stages"),
    [(32, 1, [32]), (32, 2, [16, 16]), (33, 2, [17, 16]), (32, 3, [10, 11, 11][::-1]), (5, 4, [1, 1, 2, 1])],
)
def test_layers_of_the_stages_are_those_of_vllm(layers: int, count: int, stages: list[int]) -> None:
    found = read_shape(LLAMA_8B | {"num_hidden_layers": layers}, profile().engine).stages(count)
    assert found == stages


@pytest.mark.parametrize(("size", "blocks"), [(None, 5120), (32, 2560), (128, 640)])
def test_blocks_of_another_size_are_fewer(size: int | None, blocks: int) -> None:
    settings = profile({} if size is None else {"block_size": size}).engine
    shape = read_shape(LLAMA_8B, settings)
    cache = kv_cache(shape, settings, 10 * GIB, device="cuda")
    assert (cache.blocks, cache.block_size) == (blocks, size or 16)
    stated = profile({"num_gpu_blocks_override": 100}).engine
    assert kv_cache(shape, stated, 10 * GIB, device="cuda").blocks == 100


def test_a_stage_has_its_layers_and_the_ends_their_embeddings() -> None:
    settings = [profile(pipeline_parallel_size=count).engine for count in (1, 2)]
    shape = read_shape(LLAMA_8B, settings[0])
    whole, stage = (weight_bytes_per_gpu(dense_tensors(shape), shape, engine) for engine in settings)
    norm = 2 * shape.hidden
    # embeddings and output layer are equally large, and only the last stage has the last norm
    assert stage == (whole - norm) // 2 + norm
    tied = read_shape(LLAMA_8B | {"tie_word_embeddings": True}, settings[0])
    table = 2 * tied.vocab * tied.hidden
    whole, stage = (weight_bytes_per_gpu(dense_tensors(tied), tied, engine) for engine in settings)
    assert stage == (whole - table - norm) // 2 + table + norm


@pytest.mark.parametrize(
    ("size", "expert_parallel", "rows"),
    [(1, True, 720), (4, False, 180), (4, True, 240), (8, True, 120), (8, False, 90)],
)
def test_with_expert_parallelism_a_gpu_has_whole_experts(size: int, expert_parallel: bool, rows: int) -> None:
    settings = profile({"enable_expert_parallel": expert_parallel}, tensor_parallel_size=size).engine
    shape = read_shape(QWEN_MOE, settings)
    experts = [
        TensorInfo(name=f"model.layers.0.mlp.experts.{n}.up_proj.weight", dtype="BF16", shape=(120, 8), nbytes=1920)
        for n in range(6)
    ]
    assert weight_bytes_per_gpu(experts, shape, settings) == rows * 8 * 2


def test_online_fp8_halves_the_projections(tmp_path: Path) -> None:
    plain, fp8, other = (plan(tmp_path, **engine) for engine in ({}, {"quantization": "fp8"}, {"quantization": "x"}))
    assert plain.weight_bytes is not None
    assert fp8.weight_bytes is not None
    # 8,030,261,248 parameters, of which the two tables of 128,256 x 4,096 and the norms stay as they are
    unquantized = 2 * 128_256 * 4_096 + 65 * 4_096
    assert plain.weight_bytes - fp8.weight_bytes == 8_030_261_248 - unquantized
    assert (fp8.not_counted, other.weight_bytes) == ((), None)
    assert "not counted: quantization x; weights count as in the files" in other.not_counted[0]


@pytest.mark.parametrize(
    ("vllm", "told"),
    [
        ({}, []),
        ({"kv_cache_dtype": "fp8", "block_size": 32, "async_scheduling": False, "scheduling_policy": "fcfs"}, []),
        ({"kv_cache_dtype": "nvfp4"}, ["kv_cache_dtype; .*up to four times as many tokens"]),
        ({"decode_context_parallel_size": 2}, ["up to 2 times as many tokens"]),
        ({"hf_overrides": {"num_hidden_layers": 2}}, ["hf_overrides; weights and KV cache are those of config.json"]),
        ({"mm_processor_cache_gb": 4}, ["mm_processor_cache_gb; vLLM measures what it takes when it starts"]),
        ({"speculative_config": {"method": "ngram", "num_speculative_tokens": 3}}, []),
        ({"speculative_config": {"model": "org/draft"}}, ["speculative_config; the weights of the draft"]),
        ({"spec_model": "org/draft", "spec_tokens": 2}, ["spec_model; the weights of the draft"]),
    ],
)
def test_the_plan_says_what_it_does_not_count(tmp_path: Path, vllm: dict[str, Any], told: list[str]) -> None:
    found = plan(tmp_path, vllm)
    assert len(found.not_counted) == len(told)
    for message in told:
        assert re.search(message, " ".join(found.not_counted))
        assert re.search(message, check_memory_plan(found).value)


def test_a_draft_adds_weights_and_its_part_of_each_token(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    draft = model_dir(tmp_path / "draft", LLAMA_8B | {"num_hidden_layers": 1})
    write_safetensors(draft / "model.safetensors", {"model.layers.0.mlp.down_proj.weight": (4096, 14336)})
    alone = plan(tmp_path / "target", tensor_parallel_size=2)
    both = plan(tmp_path / "target", {"speculative_config": {"model": str(draft)}}, tensor_parallel_size=2)
    assert alone.weight_bytes is not None
    assert alone.kv_bytes_per_token is not None
    assert both.weight_bytes == alone.weight_bytes + 4096 * 14336
    assert both.kv_bytes_per_token == alone.kv_bytes_per_token * 33 // 32
    assert both.not_counted == ()
    assert both.kv_tokens is not None
    assert alone.kv_tokens is not None
    assert both.kv_tokens < alone.kv_tokens


def test_a_stated_cache_is_no_estimate(tmp_path: Path) -> None:
    found = plan(tmp_path, {"kv_cache_memory_bytes": 10 * GIB})
    assert (found.kv_budget_bytes, found.is_estimate, found.doubts) == (10 * GIB, False, ())
    (doubt,) = plan(tmp_path, {"kv_cache_memory_bytes": 79 * GIB}).doubts
    assert "kv_cache_memory_bytes is 79.00 GiB: with weights and activations" in doubt
    (problem,) = plan(tmp_path, {"kv_cache_memory_bytes": GIB // 8}).problems
    assert "not even one sequence of 2048 tokens fits" in problem


def test_what_is_offloaded_is_the_hosts(tmp_path: Path) -> None:
    plain, moved = plan(tmp_path), plan(tmp_path, {"cpu_offload_gb": 4})
    assert plain.weight_bytes is not None
    assert moved.weight_bytes == plain.weight_bytes - 4 * GIB
    settings = profile({"cpu_offload_gb": 4, "kv_offloading_size": 32.5}, tensor_parallel_size=2).engine
    assert host_bytes(settings) == int(40.5 * GIB)
    assert host_bytes(profile().engine) == 0


@pytest.mark.parametrize(
    ("vllm", "engine", "problem"),
    [
        ({}, {"pipeline_parallel_size": 33}, "pipeline_parallel_size is 33, but the model has 32 layers"),
        ({"enable_expert_parallel": True}, {}, "enable_expert_parallel is true, but the model has no experts"),
        ({"enable_expert_parallel": False}, {"pipeline_parallel_size": 32}, None),
    ],
)
def test_what_cannot_work_is_a_problem(vllm: dict[str, Any], engine: dict[str, Any], problem: str | None) -> None:
    settings = profile(vllm, **engine).engine
    found = read_shape(LLAMA_8B, settings).problems(settings)
    assert len(found) == (problem is not None)
    assert all((problem or "") in text for text in found)
