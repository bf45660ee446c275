"""The chosen question batch: from the memory plan, within vLLM's limit, with graphs for all steps."""

import json
from pathlib import Path
from typing import Any

import pytest

from profiles.engine_settings import EngineSettings
from profiles.load import load_profile, profile_names
from profiles.schema import AUTO, Profile
from tasks.node.auto_batch import auto_engine, choose_batch
from tasks.node.engine_memory import KvCache
from tasks.node.memory_plan import MemoryPlan, plan_memory
from tasks.node.node_checks import check_memory_plan
from tasks.node.preflight_view import render_plan
from tasks.units import GIB
from tests.tasks.node.test_memory_plan import LLAMA_8B, LLAMA_70B, QWEN_7B

QWEN_32B = QWEN_7B | {
    "hidden_size": 5120, "intermediate_size": 27648, "num_hidden_layers": 64, "num_attention_heads": 40,
    "num_key_value_heads": 8,
}  # fmt: skip


def auto_profile(*, device: str = "cuda", **engine: Any) -> Profile:
    return Profile.model_validate(
        {"name": "p", "question_batch_size": "auto", "engine": engine, "expect": {"device": device}}
    )


def plan(tmp_path: Path, profile: Profile, config: dict[str, Any], *, gib: float = 79.6, **more: Any) -> MemoryPlan:
    (tmp_path / "config.json").write_text(json.dumps(config))
    lengths = {"prompt_length": 150, "max_tokens": 384} | more.pop("lengths", {})
    values = {"arms": 8, "gpu_bytes": int(gib * GIB), "gpu_name": "H100"} | lengths | more
    return plan_memory(profile, tmp_path, expected_length=lengths["prompt_length"] + lengths["max_tokens"], **values)


@pytest.mark.parametrize(
    ("config", "profile", "more", "sequences", "first"),
    [
        pytest.param(QWEN_7B, "h200x1", {}, 1024, 1024, id="vLLM's limit on an H100"),
        pytest.param(QWEN_7B, "h200x1", {"lengths": {"max_tokens": 1800}}, 1024, 536, id="long completions"),
        pytest.param(QWEN_32B, "h200x1", {}, 256, 88, id="little memory beside the weights"),
        pytest.param(LLAMA_70B, "h100x8", {}, 1024, 1024, id="eight GPUs"),
        pytest.param(LLAMA_8B, "a100-40gb-x8", {"gib": 39, "gpu_name": "A100"}, 256, 256, id="vLLM's limit on an A100"),
        pytest.param(QWEN_7B, "h200x1", {"arms": 1, "samples": 1}, 1024, 1024, id="one rollout per question"),
        pytest.param(QWEN_7B, "h200x1", {"arms": 3000}, 1024, 3000, id="no fewer than one question"),
        pytest.param(
            QWEN_7B | {"sliding_window": 5, "use_sliding_window": True}, "h200x1", {}, 1024, 256, id="unknown"
        ),
    ],
)
def test_the_batch_follows_the_memory_plan(
    tmp_path: Path, config: dict[str, Any], profile: str, more: dict[str, Any], sequences: int, first: int
) -> None:
    chosen = load_profile(profile).model_copy(update={"question_batch_size": AUTO})
    found = plan(tmp_path, chosen, config, **more)
    assert found.auto is not None
    per_question = more.get("arms", 8)
    assert found.auto.sequences == sequences
    assert found.auto.first_sequences == found.in_flight == first
    assert found.auto.questions == max(1, sequences // per_question)
    assert found.auto.first_questions * per_question == first
    if found.kv_tokens is not None:
        assert found.batch_fits


def test_what_the_first_sequences_need_is_there_with_the_memory_of_all_seats(tmp_path: Path) -> None:
    found = plan(tmp_path, load_profile("h200x1"), QWEN_7B)
    stated = load_profile("h200x1-strict")
    usual = plan(tmp_path, stated, QWEN_7B)
    assert found.reserve_bytes is not None
    assert usual.reserve_bytes is not None
    # 1,024 rows of 152,064 logits, and the pool of the largest graph, instead of 16,384 tokens in a layer
    assert found.reserve_bytes > usual.reserve_bytes + GIB
    assert (found.step_tokens, found.graph_tokens, found.expected_graph_share) == (2048, 2048, 1.0)
    assert (usual.step_tokens, usual.graph_tokens) == (16384, 512)


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        pytest.param({}, {"max_num_batched_tokens": 2048, "largest": 2048}, id="nothing stated"),
        pytest.param(
            {"max_num_batched_tokens": 8192}, {"max_num_batched_tokens": 8192, "largest": 2048}, id="stated tokens"
        ),
        pytest.param(
            {"max_num_batched_tokens": 512}, {"max_num_batched_tokens": 512, "largest": 512}, id="fewer tokens"
        ),
        pytest.param({"cudagraph_capture_sizes": (8,)}, {"largest": 8}, id="stated graphs"),
        pytest.param({"max_cudagraph_capture_size": 64}, {"largest": None}, id="stated largest graph"),
        pytest.param({"enforce_eager": True}, {"max_num_batched_tokens": None, "largest": None}, id="eager"),
        pytest.param(
            {"enable_chunked_prefill": False}, {"max_num_batched_tokens": None, "largest": None}, id="whole prompts"
        ),
    ],
)
def test_stated_settings_stay(engine: dict[str, Any], expected: dict[str, int | None]) -> None:
    found = auto_engine(auto_profile(**engine), 256)
    assert found.max_num_seqs == 256
    assert max(found.cudagraph_capture_sizes or (), default=None) == expected["largest"]
    if "max_num_batched_tokens" in expected:
        assert found.max_num_batched_tokens == expected["max_num_batched_tokens"]
    assert EngineSettings.model_validate(found.model_dump()) == found


def test_a_cpu_engine_gets_no_graphs() -> None:
    assert auto_engine(auto_profile(device="cpu"), 64) == EngineSettings(max_num_seqs=64)


@pytest.mark.parametrize(
    ("engine", "most"),
    [
        ({}, 1024),
        ({"max_num_seqs": 100}, 100),
        ({"max_num_batched_tokens": 300}, 300),  # vLLM refuses more sequences than tokens
    ],
)
def test_no_more_sequences_than_vllm_or_the_profile_says(engine: dict[str, Any], most: int) -> None:
    found = choose_batch(
        auto_profile(**engine),
        rollouts_per_question=8,
        prompt=100,
        max_tokens=100,
        default_sequences=1024,
        cache=lambda settings: KvCache(bytes_per_token=1, block_size=16, blocks=10**6, max_model_len=2048),
    )
    assert (found.sequences, found.questions) == (most, most // 8)


def test_the_choice_and_its_reason_are_shown(tmp_path: Path) -> None:
    from rich.console import Console

    found = plan(tmp_path, load_profile("h200x1"), QWEN_7B)
    console = Console(width=200)
    with console.capture() as captured:
        console.print(render_plan(found, ()))
    shown = captured.get()
    reason = "1,024, vLLM's own limit on this device: the KV cache holds 1,949 sequences of 534 tokens"
    assert reason in shown
    assert reason in check_memory_plan(found).value
    assert "128 at first, 128 at most" in shown
    assert "2,048 at most; CUDA graphs for up to 2,048" in shown
    assert "steps in a CUDA graph (estimate)" in shown


def test_gpu_profiles_choose_their_batch_unless_they_stand_for_something() -> None:
    stated = {name for name in profile_names() if load_profile(name).question_batch_size != AUTO}
    assert stated == {
        *("cpu-demo", "cpu-demo-baseline"),
        *("h100x8-baseline", "h200x1-baseline"),
        *("h100x8-strict", "h200x1-strict"),
        *("h100x8", "h100x4", "a100-80gb-x8", "a100-40gb-x8"),  # the guide's
    }
