import json
from pathlib import Path
from typing import Any

import pytest

from profiles.schema import Profile
from tasks.node.engine_memory import kv_bytes_per_token, kv_cache
from tasks.node.memory_plan import plan_memory
from tasks.node.weight_memory import dense_tensors, weight_bytes_per_gpu
from tasks.plan.model_shape import UnknownLayoutError, read_shape
from tasks.plan.safetensors_header import TensorInfo
from tasks.units import GIB

# as published in each model's config.json on the Hugging Face hub
QWEN_7B = {
    "model_type": "qwen2", "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28,
    "num_key_value_heads": 4, "intermediate_size": 18944, "vocab_size": 152064, "tie_word_embeddings": False,
    "max_position_embeddings": 32768, "sliding_window": 131072, "use_sliding_window": False, "torch_dtype": "bfloat16",
}  # fmt: skip
LLAMA_8B = {
    "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256, "tie_word_embeddings": False,
    "max_position_embeddings": 131072, "rope_scaling": {"rope_type": "llama3", "factor": 8.0},
    "torch_dtype": "bfloat16", "attention_bias": False,
}  # fmt: skip
LLAMA_70B = LLAMA_8B | {
    "hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64, "intermediate_size": 28672,
}  # fmt: skip
PHI3_MEDIUM = {
    "model_type": "phi3", "hidden_size": 5120, "num_hidden_layers": 40, "num_attention_heads": 40,
    "num_key_value_heads": 10, "intermediate_size": 17920, "vocab_size": 32064, "tie_word_embeddings": False,
    "max_position_embeddings": 4096, "torch_dtype": "bfloat16",
}  # fmt: skip


def profile(device: str = "cuda", **engine: Any) -> Profile:
    expect = {"device": device} if device == "cpu" else {"gpu_count": engine.get("tensor_parallel_size", 1)}
    return Profile.model_validate({"name": "test", "engine": engine, "expect": expect})


def model_dir(path: Path, config: dict[str, Any]) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    return path


# weights: (parameters - replicated norms) * 2 bytes / TP + norms * 2 bytes, with the published parameter counts
# 7,615,616,512 (Qwen2.5-7B), 8,030,261,248 (Llama-3.1-8B), 70,553,706,496 (70B); 57, 65 and 161 norms of hidden size.
# KV per token: 2 (K and V) * layers * KV heads / TP * head_dim 128 * 2 bytes.
PUBLISHED = [
    ("Qwen2.5-7B", QWEN_7B, 1, 15_231_233_024, 57_344),
    ("Qwen2.5-7B", QWEN_7B, 2, 7_615_820_800, 28_672),
    ("Qwen2.5-7B", QWEN_7B, 4, 3_808_114_688, 14_336),
    ("Llama-3.1-8B", LLAMA_8B, 1, 16_060_522_496, 131_072),
    ("Llama-3.1-8B", LLAMA_8B, 8, 2_008_031_232, 16_384),
    ("Llama-3.1-70B", LLAMA_70B, 4, 35_278_831_616, 81_920),
    ("Llama-3.1-70B", LLAMA_70B, 8, 17_640_734_720, 40_960),
]


@pytest.mark.parametrize(("name", "config", "tp", "weights", "per_token"), PUBLISHED)
def test_published_models_match_hand_computed_figures(
    name: str, config: dict[str, Any], tp: int, weights: int, per_token: int
) -> None:
    engine = profile(tensor_parallel_size=tp).engine
    shape = read_shape(config, engine)
    assert weight_bytes_per_gpu(dense_tensors(shape), shape, engine) == weights
    assert kv_bytes_per_token(shape, engine) == per_token


# 40 query and 10 KV heads of 128: on 20 GPUs each holds 2 query heads, and 1 K and 1 V head, repeated on a second GPU
@pytest.mark.parametrize(("tp", "rows"), [(1, 7680), (2, 3840), (10, 768), (20, 512)])
def test_a_fused_qkv_is_split_like_its_parts(tp: int, rows: int) -> None:
    engine = profile(tensor_parallel_size=tp).engine
    shape = read_shape(PHI3_MEDIUM, engine)
    fused = TensorInfo(
        name="model.layers.0.self_attn.qkv_proj.weight", dtype="BF16", shape=(7680, 5120), nbytes=2 * 7680 * 5120
    )
    assert weight_bytes_per_gpu([fused], shape, engine) == rows * 5120 * 2


DEFAULT, LINEAR = {"rope_type": "default", "rope_theta": 1e6}, {"rope_type": "linear", "factor": 4.0}


@pytest.mark.parametrize(
    ("rope", "longest"),
    [
        ({}, 32768),
        ({"rope_scaling": None}, 32768),
        ({"rope_parameters": DEFAULT}, 32768),
        ({"rope_parameters": {"full_attention": DEFAULT}}, 32768),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, None),
        ({"rope_parameters": LINEAR}, None),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, None),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, None),
        ({"rope_parameters": {"type": "yarn", "factor": 4.0}}, None),
        ({"rope_parameters": {"full_attention": LINEAR}}, None),
    ],
)
def test_scaled_positions_have_no_known_limit(rope: dict[str, Any], longest: int | None) -> None:
    assert read_shape(QWEN_7B | rope, profile().engine).longest == longest


def test_kv_heads_are_repeated_when_there_are_more_gpus_than_heads() -> None:
    shape = read_shape(QWEN_7B, profile().engine)
    four, eight = (profile(tensor_parallel_size=size).engine for size in (4, 8))
    assert kv_bytes_per_token(shape, eight) == kv_bytes_per_token(shape, four)


# 10 GiB / (57344 * 16) = 11702.86 blocks; a sequence of 2048 tokens takes 128 blocks, of 300 tokens 19
@pytest.mark.parametrize(("length", "sequences"), [(2048, 91), (300, 615), (16, 11701), (1, 11701)])
def test_sequences_take_whole_blocks_but_never_the_null_block(length: int, sequences: int) -> None:
    engine = profile(max_model_len=2048).engine
    cache = kv_cache(read_shape(QWEN_7B, engine), engine, 10 * GIB, device="cuda")
    assert (cache.blocks, cache.tokens) == (11702, 187_232)
    assert cache.sequences(length) == sequences


def test_plan_adds_up(tmp_path: Path) -> None:
    plan = plan_memory(
        profile(gpu_memory_utilization=0.9, max_model_len=4096),
        model_dir(tmp_path, LLAMA_8B),
        arms=8,
        expected_length=500,
        gpu_bytes=79 * GIB,
    )
    assert plan.in_flight == 16 * 8
    assert plan.is_estimate
    budget = -(-79 * GIB * 9 // 10)
    assert plan.weight_bytes is not None
    assert plan.reserve_bytes is not None
    assert plan.kv_budget_bytes == pytest.approx(budget - plan.weight_bytes - plan.reserve_bytes, abs=1)
    assert plan.batch_fits is True
    assert plan.problems == plan.unknown == ()


def test_batch_that_does_not_fit_is_reported(tmp_path: Path) -> None:
    plan = plan_memory(
        profile(max_num_seqs=1024, max_model_len=8192), model_dir(tmp_path, LLAMA_8B), arms=64, gpu_bytes=40 * GIB
    )
    assert plan.running == 1024
    assert plan.batch_fits is False


PROBLEMS = [
    ("heads", QWEN_7B, {"tensor_parallel_size": 8}, 80, "28 attention and 4 KV heads. Use one of 1, 2, 4"),
    ("positions", QWEN_7B, {"max_model_len": 65536}, 80, "Lower max_model_len to 32768"),
    ("too large", LLAMA_70B, {"tensor_parallel_size": 1}, 80, "not even one sequence of 2048 tokens fits"),
]


@pytest.mark.parametrize(("name", "config", "engine", "gib", "message"), PROBLEMS)
def test_settings_that_cannot_work_are_named(
    tmp_path: Path, name: str, config: dict[str, Any], engine: dict[str, Any], gib: int, message: str
) -> None:
    plan = plan_memory(profile(**engine), model_dir(tmp_path, config), gpu_bytes=gib * GIB)
    assert any(message in problem for problem in plan.problems), plan.problems


# Llama-3.1-8B takes 15.0 GiB of weights; with utilization 0.9, an engine may take 14.4, 18 or 27 GiB in all
@pytest.mark.parametrize(("gib", "problems", "doubts"), [(16, 1, 0), (20, 0, 1), (30, 0, 0)])
def test_only_the_weights_prove_that_a_model_is_too_large(tmp_path: Path, gib: int, problems: int, doubts: int) -> None:
    settings = profile(gpu_memory_utilization=0.9, max_model_len=16384)
    plan = plan_memory(settings, model_dir(tmp_path, LLAMA_8B), gpu_bytes=gib * GIB)
    assert (len(plan.problems), len(plan.doubts)) == (problems, doubts)
    assert all("not even one sequence of 16384 tokens fits" in said for said in plan.problems + plan.doubts)


UNKNOWN = {
    "MLA": ({"model_type": "deepseek_v3", "kv_lora_rank": 512}, "deepseek_v3"),
    "MLA under a known name": (LLAMA_8B | {"kv_lora_rank": 512}, "latent attention"),
    "sliding window": (LLAMA_8B | {"model_type": "mistral", "sliding_window": 4096}, "window 4096"),
    "sliding window on": (QWEN_7B | {"use_sliding_window": True}, "sliding-window"),
    "hybrid": (QWEN_7B | {"layer_types": ["full_attention", "linear_attention"]}, "linear_attention"),
    "quantized KV": (LLAMA_8B | {"quantization_config": {"kv_cache_scheme": {"num_bits": 8}}}, "quantization"),
    "incomplete": ({"model_type": "llama", "hidden_size": 64}, "num_attention_heads"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_layouts_are_not_guessed(tmp_path: Path, name: str) -> None:
    config, reason = UNKNOWN[name]
    with pytest.raises(UnknownLayoutError, match=reason):
        read_shape(config, profile().engine)
    plan = plan_memory(profile(), model_dir(tmp_path, config), gpu_bytes=80 * GIB)
    assert plan.kv_tokens is plan.weight_bytes is plan.batch_fits is None
    assert len(plan.unknown) == 1


def test_unknown_gpu_memory_leaves_the_rest_known(tmp_path: Path) -> None:
    plan = plan_memory(profile(), model_dir(tmp_path, LLAMA_8B))
    assert plan.weight_bytes == 16_060_522_496
    assert plan.kv_tokens is None
    assert "GPU's memory is unknown" in plan.unknown[0]
