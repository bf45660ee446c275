from pathlib import Path

import pytest

from profiles.load import DEMO_MODEL
from tasks.node.capacity_plan import plan_capacity
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
