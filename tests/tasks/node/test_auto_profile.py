"""``--profile auto``: which engines a model gets on which cards."""

import json
from pathlib import Path
from typing import Any

import pytest

from profiles.load import load_profile
from profiles.profile_text import profile_text
from tasks.errors import ConfigError
from tasks.node.auto_profile import WORTH_HAVING, choose_profile
from tasks.node.cards import Card
from tasks.units import MIB
from tests.tasks.node.test_auto_batch import QWEN_32B
from tests.tasks.node.test_memory_plan import LLAMA_70B, QWEN_7B
from tests.tasks.plan.test_model_files import write_safetensors

QWEN_HALF_B = QWEN_7B | {
    "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
    "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
}  # fmt: skip
LLAMA_405B = LLAMA_70B | {
    "hidden_size": 16384, "intermediate_size": 53248, "num_hidden_layers": 126, "num_attention_heads": 128,
}  # fmt: skip
MIXED_LAYERS = QWEN_7B | {"layer_types": ["sliding_attention"]}

KINDS = {
    "L4": ("NVIDIA L4", 22_700, (8, 9)),
    "T4": ("Tesla T4", 14_900, (7, 5)),
    "A100-40": ("NVIDIA A100-SXM4-40GB", 40_300, (8, 0)),
    "A100-80": ("NVIDIA A100-SXM4-80GB", 81_000, (8, 0)),
    "H100": ("NVIDIA H100 80GB HBM3", 81_008, (9, 0)),
    "H200": ("NVIDIA H200", 143_100, (9, 0)),
    "B200": ("NVIDIA B200", 182_600, (10, 0)),
}


def cards(*kinds: str) -> list[Card]:
    """MIB as CUDA counts them."""
    return [
        Card(index=index, name=KINDS[kind][0], memory=KINDS[kind][1] * MIB, compute_capability=KINDS[kind][2])
        for index, kind in enumerate(kinds)
    ]


def model(folder: Path, config: dict[str, Any]) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def quantized(folder: Path, config: dict[str, Any], gib: float) -> Path:
    """A model whose weights have a size that its config does not tell. The file has a header and a hole."""
    path = folder / "model.safetensors"
    write_safetensors(path, {"model.layers.0.mlp.down_proj.qweight": (1, 1)})
    shape = [int(gib * 2**29 / 1024), 1024]
    header = {"model.layers.0.mlp.down_proj.qweight": {"dtype": "I16", "shape": shape}}
    end = 2 * shape[0] * shape[1]
    header["model.layers.0.mlp.down_proj.qweight"]["data_offsets"] = [0, end]  # type: ignore[assignment]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with path.open("ab") as file:
        file.truncate(8 + len(text) + end)
    return model(folder, config | {"quantization_config": {"quant_method": "awq", "bits": 4}})


@pytest.mark.parametrize(
    ("config", "kind", "count", "replicas", "size"),
    [
        (QWEN_HALF_B, "L4", 1, 1, 1),
        (QWEN_HALF_B, "T4", 4, 4, 1),
        (QWEN_HALF_B, "H100", 8, 8, 1),
        (QWEN_7B, "L4", 1, 1, 1),
        (QWEN_7B, "L4", 4, 4, 1),
        (QWEN_7B, "A100-40", 8, 8, 1),
        (QWEN_7B, "A100-80", 1, 1, 1),
        (QWEN_7B, "H100", 3, 3, 1),
        (QWEN_7B, "H100", 8, 8, 1),
        (QWEN_7B, "B200", 8, 8, 1),
        (QWEN_32B, "L4", 8, 1, 8),
        (QWEN_32B, "A100-40", 8, 2, 4),
        # one H100 would have room for 14 sequences of 2,048 tokens; it is taken where there is no other
        (QWEN_32B, "H100", 1, 1, 1),
        (QWEN_32B, "H100", 2, 1, 2),
        (QWEN_32B, "H100", 7, 3, 2),
        (QWEN_32B, "H100", 8, 4, 2),
        (QWEN_32B, "H200", 8, 8, 1),
        (LLAMA_70B, "A100-40", 8, 1, 8),
        (LLAMA_70B, "A100-80", 8, 2, 4),
        (LLAMA_70B, "H100", 2, 1, 2),
        (LLAMA_70B, "H100", 4, 1, 4),
        (LLAMA_70B, "H100", 6, 1, 4),
        (LLAMA_70B, "H100", 8, 2, 4),
        (LLAMA_70B, "H200", 8, 4, 2),
        (LLAMA_70B, "B200", 1, 1, 1),
        (LLAMA_405B, "H200", 8, 1, 8),
    ],
)
def test_the_smallest_size_that_leaves_a_kv_cache_worth_having(
    tmp_path: Path, config: dict[str, Any], kind: str, count: int, replicas: int, size: int
) -> None:
    found = choose_profile(cards(*[kind] * count), model(tmp_path, config))
    profile, told = found.profile, " ".join(found.notes)
    assert (profile.replicas, profile.engine.tensor_parallel_size) == (replicas, size)
    assert ("unused" in told) == (replicas * size < count)
    assert profile.question_batch_size == "auto"
    assert profile.gpu_hour_usd is None
    assert profile.engine.max_model_len == 2048
    assert profile.expect.gpu_count == replicas * size
    assert f"{count} x {KINDS[kind][0]}" in told


@pytest.mark.parametrize(
    ("config", "kind", "count", "stated", "replicas", "size", "stages"),
    [
        (QWEN_7B, "H100", 8, {"tensor_parallel_size": 2}, 4, 2, 1),
        (QWEN_7B, "H100", 8, {"tensor_parallel_size": 3}, 2, 3, 1),
        (QWEN_7B, "H100", 8, {"pipeline_parallel_size": 2}, 4, 1, 2),
        (QWEN_7B, "H100", 8, {"pipeline_parallel_size": 2, "tensor_parallel_size": 4}, 1, 4, 2),
        (LLAMA_70B, "H100", 8, {"pipeline_parallel_size": 2}, 2, 2, 2),
        # with half of the weights it fits half of the GPUs
        (LLAMA_70B, "H100", 8, {"quantization": "fp8"}, 4, 2, 1),
        # the 23 sequences of max_model_len that one GPU has room for become 44
        (QWEN_32B, "H100", 8, {"kv_cache_dtype": "fp8"}, 8, 1, 1),
        (QWEN_32B, "H100", 8, {"max_model_len": 1024}, 8, 1, 1),
    ],
)
def test_what_the_user_states_stays_and_the_rest_is_chosen_with_it(
    tmp_path: Path,
    config: dict[str, Any],
    kind: str,
    count: int,
    stated: dict[str, Any],
    replicas: int,
    size: int,
    stages: int,
) -> None:
    found = choose_profile(cards(*[kind] * count), model(tmp_path, config), stated=stated).profile
    engine = found.engine
    assert (found.replicas, engine.tensor_parallel_size, engine.pipeline_parallel_size) == (replicas, size, stages)
    assert found.expect.gpu_count == replicas * size * stages
    assert {**engine.model_dump(), **engine.vllm}.items() >= stated.items()


@pytest.mark.parametrize(
    ("stated", "told"),
    [
        ({"tensor_parallel_size": 4}, "tensor_parallel_size 4, which are 4 GPUs, and this node has 2"),
        ({"pipeline_parallel_size": 4}, "tensor_parallel_size 1 x pipeline_parallel_size 4, which are 4 GPUs"),
        (
            {"tensor_parallel_size": 2, "nodes_per_replica": 2},
            "nodes_per_replica 2, and profile auto chooses engines for the GPUs of one node",
        ),
    ],
)
def test_more_gpus_than_there_are_cannot_be_stated(tmp_path: Path, stated: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        choose_profile(cards("H100", "H100"), model(tmp_path, QWEN_7B), stated=stated)


@pytest.mark.parametrize(
    ("kind", "dtype", "utilization"),
    [("T4", "auto", 0.9), ("L4", "bfloat16", 0.9), ("A100-40", "bfloat16", 0.95), ("B200", "bfloat16", 0.95)],
)
def test_dtype_and_utilization_follow_from_the_card(tmp_path: Path, kind: str, dtype: str, utilization: float) -> None:
    found = choose_profile(cards(kind), model(tmp_path, QWEN_HALF_B))
    assert (found.profile.engine.dtype, found.profile.engine.gpu_memory_utilization) == (dtype, utilization)
    assert ("dtype is auto" in " ".join(found.notes)) == (dtype == "auto")
    assert ("small card" in " ".join(found.notes)) == (utilization < 0.95)


def test_a_quantized_model_counts_as_large_as_its_files(tmp_path: Path) -> None:
    for gib, kind, size in ((37.0, "H100", 1), (37.0, "L4", 4), (131.0, "H100", 4)):
        found = choose_profile(cards(*[kind] * 4), quantized(tmp_path, LLAMA_70B, gib))
        assert found.profile.engine.tensor_parallel_size == size, (gib, kind)


def test_a_model_of_unknown_layout_is_placed_by_its_weights(tmp_path: Path) -> None:
    for gib, size in ((50.0, 1), (70.0, 2), (200.0, 4)):
        found = choose_profile(cards(*["H100"] * 4), quantized(tmp_path, MIXED_LAYERS, gib))
        assert found.profile.engine.tensor_parallel_size == size
        assert "weights alone, as the model mixes layer types" in found.notes[-1]


@pytest.mark.parametrize(
    ("kind", "count", "gib", "config", "told"),
    [
        (
            "L4",
            8,
            None,
            LLAMA_405B,
            ("tensor_parallel_size 8", "94.5 GiB for weights", "NVIDIA L4 has 22.2 GiB", "90%"),
        ),
        ("H100", 1, None, LLAMA_70B, ("tensor_parallel_size 1", "131.4 GiB for weights", "more GPUs")),
        ("H100", 4, 400, MIXED_LAYERS, ("400.0 GiB of weights", "4 x NVIDIA H100 80GB HBM3 of 79.1 GiB", "225.5 GiB")),
        ("H100", 1, None, MIXED_LAYERS, ("no safetensors files", "mixes layer types", "Give another --profile")),
    ],
)
def test_a_model_that_fits_nowhere_is_refused_with_the_figures(
    tmp_path: Path, kind: str, count: int, gib: float | None, config: dict[str, Any], told: tuple[str, ...]
) -> None:
    path = model(tmp_path, config) if gib is None else quantized(tmp_path, config, gib)
    with pytest.raises(ConfigError) as refused:
        choose_profile(cards(*[kind] * count), path)
    for part in (str(tmp_path), *told):
        assert part in str(refused.value)
    assert "\n" not in str(refused.value)


def test_unequal_cards_are_planned_by_the_smallest(tmp_path: Path) -> None:
    found = choose_profile(cards("H200", "A100-80", "H200"), model(tmp_path, QWEN_7B))
    profile = found.profile
    assert (profile.name, profile.replicas) == ("a100-sxm4-80gb", 3)
    assert profile.expect.gpu_name == "NVIDIA H200|NVIDIA A100-SXM4-80GB"
    assert (profile.expect.gpu_memory_gib, profile.expect.compute_capability) == (79, 8.0)
    assert "the GPUs differ, and the profile is for the smallest, NVIDIA A100-SXM4-80GB" in found.notes


def test_unused_gpus_are_named(tmp_path: Path) -> None:
    found = choose_profile(cards(*["H100"] * 6), model(tmp_path, LLAMA_70B))
    assert "GPUs 4, 5 stay unused" in found.notes


@pytest.mark.parametrize(
    ("asked", "known", "length"), [(2048, 32768, 2048), (2048, 1024, 1024), (9000, 32768, 9000), (40000, 32768, 32768)]
)
def test_the_length_is_what_is_asked_for_and_the_model_knows(
    tmp_path: Path, asked: int, known: int, length: int
) -> None:
    path = model(tmp_path, QWEN_7B | {"max_position_embeddings": known})
    assert choose_profile(cards("H100"), path, max_model_len=asked).profile.engine.max_model_len == length


def test_long_sequences_take_more_gpus(tmp_path: Path) -> None:
    path = model(tmp_path, LLAMA_70B)
    sizes = [
        choose_profile(cards(*["H200"] * 8), path, max_model_len=length).profile.engine.tensor_parallel_size
        for length in (2048, 16384)
    ]
    assert sizes == [2, 4]


def test_the_number_of_gpus_changes_the_number_of_replicas_alone(tmp_path: Path) -> None:
    path = model(tmp_path, QWEN_32B)
    eight, four = (choose_profile(cards(*["H100"] * count), path).profile for count in (8, 4))
    assert (eight.replicas, four.replicas) == (4, 2)
    assert (eight.name, eight.engine, eight.any_replicas) == (four.name, four.engine, True)
    assert eight.name == "h100-80gb-hbm3-tp2"


def test_without_a_model_every_gpu_gets_an_engine() -> None:
    profile = choose_profile(cards(*["H100"] * 8), None).profile
    assert (profile.replicas, profile.engine.tensor_parallel_size, profile.model) == (8, 1, None)


def test_a_chosen_profile_can_be_kept_as_a_file(tmp_path: Path) -> None:
    found = choose_profile(cards("H100", "L4"), model(tmp_path, QWEN_HALF_B))
    file = tmp_path / "mine.toml"
    file.write_text(profile_text(found.profile, found.notes))
    assert load_profile(str(file)) == found.profile


def test_what_is_worth_having_is_more_than_a_hundred_usual_sequences() -> None:
    # 150 tokens of a prompt and 350 of an answer
    assert WORTH_HAVING * 2048 / 500 > 100


@pytest.mark.parametrize(
    ("config", "kind", "expected_length", "per_gpu"),
    [
        (QWEN_7B, "H200", 571, 2),
        (QWEN_7B, "H200", 2048, 1),
        (QWEN_7B, "H100", 571, 1),
        (QWEN_HALF_B, "H100", 571, 2),
        (LLAMA_70B, "H200", 571, 1),
    ],
)
def test_engines_share_a_gpu_where_each_holds_its_full_batch(
    tmp_path: Path, config: dict[str, Any], kind: str, expected_length: int, per_gpu: int
) -> None:
    path = model(tmp_path, config)
    found = choose_profile(cards(kind, kind), path, expected_length=expected_length, may_share=True)
    profile = found.profile
    assert (profile.replicas_per_gpu, profile.gpus) == (per_gpu, 2)
    assert profile.replicas == 2 * per_gpu // profile.engine.tensor_parallel_size
    assert profile.expect.gpu_count == 2
    assert ("2 engines share each GPU" in " ".join(found.notes)) == (per_gpu > 1)
    assert choose_profile(cards(kind, kind), path, expected_length=expected_length).profile.replicas_per_gpu == 1
