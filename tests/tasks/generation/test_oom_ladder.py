"""The OOM ladder: what each rung changes, and where it ends."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from profiles.engine_settings import EngineSettings
from profiles.load import load_profile
from profiles.schema import AUTO, ExpectedNode, Profile
from tasks.generation.oom_ladder import build_ladder
from tasks.node.auto_batch import AutoBatch
from tasks.units import GIB

CHOSEN = AutoBatch(sequences=1024, first_sequences=512, questions=128, first_questions=64, reason="it fits")


def profile(batch: int, *, device: str = "cuda", **engine: Any) -> Profile:
    return Profile(
        name="p",
        question_batch_size=batch,
        engine=EngineSettings(**{"max_num_seqs": 64, **engine}),
        expect=ExpectedNode.model_validate({"device": device}),
    )


def column(rungs: list[Any], name: str) -> list[Any]:
    return [rung.describe()[name] for rung in rungs]


def test_each_rung_halves_the_batch_its_sequences_and_its_tokens_down_to_one_question_eager() -> None:
    rungs = build_ladder(profile(8, max_num_batched_tokens=8192, gpu_memory_utilization=0.9), 8)
    assert column(rungs, "rung") == [0, 1, 2, 3, 4]
    assert column(rungs, "question_batch_size") == [8, 4, 2, 1, 1]
    assert column(rungs, "max_num_seqs") == [64, 32, 16, 8, 8]
    assert column(rungs, "max_num_batched_tokens") == [8192, 4096, 2048, 1024, 1024]
    assert column(rungs, "gpu_memory_utilization") == [0.9, 0.85, 0.8, 0.75, 0.75]
    assert column(rungs, "max_cudagraph_capture_size") == [None, None, 64, 64, None]
    assert column(rungs, "enforce_eager") == [False, False, False, False, True]


@pytest.mark.parametrize(
    ("engine", "name", "expected"),
    [
        pytest.param({"max_num_seqs": 8}, "max_num_seqs", [8, 4, 2, 2], id="the profile's own limit is halved"),
        pytest.param({"max_num_seqs": 500}, "max_num_seqs", [32, 16, 8, 8], id="no more than the batch needs"),
        pytest.param({"gpu_memory_utilization": 0.32}, "gpu_memory_utilization", [0.32, 0.3, 0.3, 0.3], id="floor"),
        pytest.param({"gpu_memory_utilization": 0.2}, "gpu_memory_utilization", [0.2] * 4, id="never more than before"),
        pytest.param({}, "max_num_batched_tokens", [None, 4096, 2048, 2048], id="half of vLLM's own default"),
        pytest.param(
            {"enable_chunked_prefill": False, "max_num_batched_tokens": 3000, "max_model_len": 2048},
            "max_num_batched_tokens",
            [3000, 2048, 2048, 2048],
            id="a whole prompt must fit into a step",
        ),
        pytest.param({"kv_cache_space_gib": 4}, "kv_cache_space_gib", [4, 2, 1, 1], id="the CPU's KV cache"),
        pytest.param(
            {"max_cudagraph_capture_size": 32}, "max_cudagraph_capture_size", [32, 32, 32, None], id="smaller graphs"
        ),
    ],
)
def test_settings_along_the_ladder(engine: dict[str, Any], name: str, expected: list[Any]) -> None:
    assert column(build_ladder(profile(4, **engine), 8), name) == expected


@pytest.mark.parametrize(
    ("vllm", "expected"),
    [
        ({"kv_cache_memory_bytes": 8 * GIB}, [8 * GIB, 4 * GIB, 2 * GIB, 2 * GIB]),
        ({"kv_cache_memory_bytes": GIB // 2}, [GIB // 2, GIB // 4, GIB // 4, GIB // 4]),
        ({"kv_cache_memory_bytes": 1_000}, [1_000] * 4),
        ({"num_gpu_blocks_override": 1_000}, [1_000, 500, 250, 250]),
    ],
)
def test_a_stated_cache_is_halved_as_a_lower_utilization_frees_nothing_then(
    vllm: dict[str, int], expected: list[int]
) -> None:
    rungs = build_ladder(profile(4, vllm={**vllm, "kv_cache_dtype": "fp8"}), 8)
    assert column(rungs, next(iter(vllm))) == expected
    assert {rung.engine.vllm["kv_cache_dtype"] for rung in rungs} == {"fp8"}
    assert rungs[0].engine.vllm == {**vllm, "kv_cache_dtype": "fp8"}


def test_an_eager_profile_has_no_rung_beyond_one_question() -> None:
    assert column(build_ladder(profile(2, enforce_eager=True), 8), "question_batch_size") == [2, 1]
    assert len(build_ladder(profile(1, enforce_eager=True), 8)) == 1


@pytest.mark.parametrize("path", sorted(Path("profiles").glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_profile_has_a_ladder_of_valid_settings(path: Path) -> None:
    shipped = load_profile(path.stem)
    ladder = build_ladder(shipped, 8, CHOSEN if shipped.question_batch_size == AUTO else None)
    for before, after in pairwise(ladder):
        assert EngineSettings.model_validate(after.engine.model_dump()) == after.engine
        assert after.question_batch_size <= before.question_batch_size
        assert after.engine != before.engine


def test_a_chosen_batch_is_halved_from_where_it_was_chosen() -> None:
    rungs = build_ladder(load_profile("h200x1"), 8, CHOSEN)
    assert column(rungs, "question_batch_size") == [128, 64, 32, 16, 8, 4, 2, 1, 1]
    assert [rung.first_questions for rung in rungs] == [64, 32, 16, 8, 4, 2, 1, 1, 1]
    assert column(rungs, "max_num_seqs") == [1024, 512, 256, 128, 64, 32, 16, 8, 8]
    assert column(rungs, "max_num_batched_tokens") == [2048, 1024, 512, 256, 256, 256, 256, 256, 256]
    assert column(rungs, "max_cudagraph_capture_size") == [2048, 1024, 64, 64, 64, 64, 64, 64, None]
    assert rungs[0].engine.cudagraph_capture_sizes is not None
    assert {1, 16, 512, 1024} < set(rungs[0].engine.cudagraph_capture_sizes)


@pytest.mark.parametrize(
    ("name", "default"),
    [
        pytest.param("a100-40gb-x8", 8192, id="less than 70 GiB"),
        pytest.param("a100-80gb-x8", 8192, id="an A100, whatever its memory"),
        pytest.param("h100x4", 16384, id="four H100"),
        pytest.param("h100x8", 16384, id="eight H100"),
        pytest.param("h100x8-replicas", 16384, id="eight engines"),
        pytest.param("h200x1", 16384, id="an H200"),
    ],
)
def test_the_first_rung_halves_what_vllm_takes_on_the_profiles_gpus(name: str, default: int) -> None:
    stated = load_profile(name).model_copy(update={"question_batch_size": 16})
    before, after = build_ladder(stated, 8)[:2]
    assert before.engine.max_num_batched_tokens is None
    assert after.engine.max_num_batched_tokens == default // 2
