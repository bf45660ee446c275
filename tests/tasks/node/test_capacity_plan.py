from dataclasses import replace
from pathlib import Path

import pytest

from profiles.load import DEMO_MODEL
from tasks.node.capacity_plan import plan_capacity
from tasks.node.run_batch import choose_run_batch
from tasks.plan.run_config import build_config
from tasks.plan.run_plan import plan_run
from tests.support.fake_nvml import FakeReader, healthy

pytestmark = pytest.mark.skipif(not (DEMO_MODEL / "config.json").is_file(), reason="the demo model is not here")


def test_demo_run_is_planned_with_its_own_prompts(tmp_path: Path) -> None:
    run = plan_run(build_config({"dataset": {"path": "demo", "questions": 8}}), tmp_path)
    found = plan_capacity(run)
    assert found.prompts.sampled == 8
    assert found.prompts.shared_prefix < found.prompts.mean <= found.prompts.longest
    assert found.plan.in_flight == run.profile.question_batch_size * 8
    assert found.plan.expected_length == -(-(found.prompts.mean + run.config.sampling.max_tokens) // 1)
    assert found.plan.kv_tokens is not None
    assert not found.plan.is_estimate
    assert found.plan.core_process is False
    assert list(tmp_path.iterdir()) == []


def test_a_previous_runs_truncation_becomes_advice(tmp_path: Path) -> None:
    run = plan_run(build_config({"dataset": {"path": "demo", "questions": 2}}), tmp_path)
    settings = [advice.setting for advice in plan_capacity(run, truncation_rate=0.5, completion_length=40).advice]
    assert "max_tokens" in settings


def test_gpu_plan_uses_the_memory_of_the_gpus_present(tmp_path: Path) -> None:
    config = build_config({"profile": "h100x8-replicas", "model": "demo", "dataset": {"path": "demo", "questions": 2}})
    found = plan_capacity(plan_run(config, tmp_path), reader=FakeReader(gpus=[healthy(index) for index in range(8)]))
    assert found.plan.device_bytes == (81559 - 551) << 20
    assert found.plan.is_estimate
    assert found.plan.core_process


def test_a_chosen_batch_is_planned_from_what_the_engine_will_have(tmp_path: Path) -> None:
    asked = {"question_batch_size": "auto", "dataset": {"path": "demo", "questions": 8}}
    run = plan_run(build_config(asked), tmp_path)
    found = plan_capacity(run, completion_length=10)
    assert found.plan.auto is not None
    # cpu-demo states 128 sequences, which its 1 GiB of KV cache holds; a previous run's lengths do not matter
    assert (found.plan.auto.sequences, found.plan.in_flight, found.plan.running) == (128, 128, 128)
    in_run = choose_run_batch(run)
    assert in_run is not None
    assert replace(in_run, reason="") == replace(found.plan.auto, reason="")
    assert choose_run_batch(plan_run(build_config({}), tmp_path)) is None
    assert {"question_batch_size", "max_num_seqs"}.isdisjoint(advice.setting for advice in found.advice)
