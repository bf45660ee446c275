import json
from pathlib import Path
from typing import Any

import pytest

from profiles.schema import Profile
from tasks.node.advice import AdviceInputs, give_advice
from tasks.node.memory_plan import MemoryPlan, plan_memory
from tasks.node.prompt_lengths import PromptLengths
from tasks.units import GIB
from tests.tasks.node.test_memory_plan import LLAMA_8B, LLAMA_70B

SHORT = PromptLengths(sampled=64, mean=180, p99=250, longest=300, shared_prefix=120)
UNSHARED = PromptLengths(sampled=64, mean=180, p99=250, longest=300, shared_prefix=20)

# good settings on one H100: Llama-3.1-8B, 64 questions x 8 arms are max_num_seqs, and prompts and completions fit
WELL = {"max_num_seqs": 512, "max_model_len": 1024, "gpu_memory_utilization": 0.95}
WELL_BATCH = 64


def situation(tmp_path: Path, *, config: Any = LLAMA_8B, batch: int | str = WELL_BATCH, **more: Any) -> AdviceInputs:
    engine = WELL | more.pop("engine", {})
    device = more.pop("device", "cuda")
    (tmp_path / "config.json").write_text(json.dumps(config))
    size = engine.get("tensor_parallel_size", 1)
    profile = Profile.model_validate(
        {
            "name": "test",
            "question_batch_size": batch,
            "engine": engine,
            "expect": {"device": device, "gpu_count": size if device == "cuda" else 0},
        }
    )

    def plan(changed: Profile) -> MemoryPlan:
        return plan_memory(changed, tmp_path, arms=8, expected_length=500, gpu_bytes=79 * GIB)

    values = {"max_tokens": 512, "prompts": SHORT, "replan": plan} | more
    return AdviceInputs(profile=profile, plan=plan(profile), **values)


def settings(now: AdviceInputs) -> set[str]:
    return {advice.setting for advice in give_advice(now)}


CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    # setting, a case with the advice, a case without it
    ("enforce_eager", {"engine": {"enforce_eager": True}}, {"engine": {"enforce_eager": True}, "device": "cpu"}),
    (
        "tensor_parallel_size",
        {"engine": {"tensor_parallel_size": 8}},
        {"engine": {"tensor_parallel_size": 4}, "config": LLAMA_70B, "batch": 16},
    ),
    ("question_batch_size", {"batch": 4}, {"batch": 4, "device": "cpu"}),
    ("max_num_seqs", {"batch": 65}, {"batch": 64}),
    (
        "max_cudagraph_capture_size",
        {"engine": {"max_cudagraph_capture_size": 256}},
        {"engine": {"max_cudagraph_capture_size": 256, "enforce_eager": True}},
    ),
    (
        "enable_prefix_caching",
        {"engine": {"enable_prefix_caching": False}},
        {"engine": {"enable_prefix_caching": False}, "prompts": UNSHARED},
    ),
    (
        "gpu_memory_utilization",
        {"engine": {"gpu_memory_utilization": 0.8}},
        {"engine": {"gpu_memory_utilization": 0.8}, "free_bytes": 66 * GIB},
    ),
    ("max_model_len", {"engine": {"max_model_len": 8192}}, {"engine": {"max_model_len": 1500}}),
    ("max_tokens", {"truncation_rate": 0.2}, {"truncation_rate": 0.01}),
]


def test_good_settings_get_no_advice(tmp_path: Path) -> None:
    assert give_advice(situation(tmp_path)) == ()


@pytest.mark.parametrize(("setting", "provokes", "does_not"), CASES, ids=[case[0] for case in CASES])
def test_each_case(tmp_path: Path, setting: str, provokes: dict[str, Any], does_not: dict[str, Any]) -> None:
    assert setting in settings(situation(tmp_path, **provokes))
    assert setting not in settings(situation(tmp_path, **does_not))


def test_advice_gives_reason_effect_and_numbers(tmp_path: Path) -> None:
    now = situation(tmp_path, batch=4, engine={"tensor_parallel_size": 8, "max_model_len": 8192})
    said = {advice.setting: advice for advice in give_advice(now)}
    assert said["tensor_parallel_size"].suggestion.startswith("use 8 replicas of tensor_parallel_size 1")
    assert said["question_batch_size"].suggestion == 'set question_batch_size = "auto", or 64'
    assert said["max_model_len"].suggestion == "set max_model_len = 1024"
    assert all(advice.reason and advice.effect for advice in said.values())


def test_advice_disappears_once_followed(tmp_path: Path) -> None:
    assert "question_batch_size" in settings(situation(tmp_path, batch=4))
    assert "question_batch_size" not in settings(situation(tmp_path, batch=64))


def test_a_chosen_batch_gets_no_advice_on_batch_and_graphs(tmp_path: Path) -> None:
    engine = {"max_num_seqs": None, "max_cudagraph_capture_size": None}
    assert settings(situation(tmp_path, batch="auto", engine=engine)) == set()


def test_an_unknown_model_gets_the_advice_that_needs_no_figures(tmp_path: Path) -> None:
    now = situation(tmp_path, config={"model_type": "deepseek_v3"}, engine={"enforce_eager": True})
    assert settings(now) == {"enforce_eager"}
