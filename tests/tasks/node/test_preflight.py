import contextlib
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from profiles.load import DEMO_MODEL
from tasks.errors import ConfigError, PreflightFailed
from tasks.node.capacity_plan import plan_capacity
from tasks.node.gpu_reading import GpuReading
from tasks.node.preflight import (
    BYTES_PER_EXPERT,
    BYTES_PER_ID,
    BYTES_PER_TOKEN,
    USUAL_MASK,
    output_size,
    run_preflight,
)
from tasks.plan.run_config import config_from_parameters
from tasks.plan.run_plan import RunPlan, plan_run
from tasks.storage.published import record_published
from tests.support.fake_nvml import FakeReader, healthy
from tests.support.fake_profile import write_fake_profile

pytestmark = pytest.mark.skipif(not (DEMO_MODEL / "config.json").is_file(), reason="the demo model is not here")


def plan(folder: Path, **parameters: Any) -> RunPlan:
    settled = {"profile": str(write_fake_profile(folder)), "questions": 8, "shard_size": 3, **parameters}
    return plan_run(config_from_parameters(settled), folder / "runs")


def test_the_memory_plan_uses_the_lengths_of_the_runs_sequences(tmp_path: Path) -> None:
    run = plan(tmp_path, max_tokens=100)
    report = run_preflight(run, None)
    assert report.plan is not None
    exact = plan_capacity(run).plan.expected_length
    assert 100 < exact < report.plan.max_model_len
    assert report.plan.expected_length == pytest.approx(exact, rel=0.05)
    assert json.loads(run.paths.preflight.read_text())["plan"]["expected_length"] == report.plan.expected_length


def test_a_tokenizer_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    run = plan(tmp_path)
    broken = tmp_path / "model"
    broken.mkdir()
    (broken / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"the tokenizer of .* cannot be read"):
        run_preflight(replace(run, model=replace(run.model, path=broken)), None)


@pytest.mark.parametrize(("finished", "questions"), [((), 8), ((0,), 6), ((0, 2), 3), ((0, 1, 2), 0)])
def test_finished_shards_need_no_more_disk(tmp_path: Path, finished: tuple[int, ...], questions: int) -> None:
    run = plan(tmp_path, max_tokens=100)
    run.paths.rollouts(0).parent.mkdir(parents=True)
    for index in finished:
        run.paths.rollouts(index).write_bytes(b"")
        record_published(run.paths.rollouts(index))
    found = output_size(run)
    assert found.most == questions * 8 * 100 * BYTES_PER_TOKEN
    assert found.expected == found.most // 2


def test_what_is_stored_beside_the_tokens_needs_disk(tmp_path: Path) -> None:
    model = tmp_path / "mixture"
    shutil.copytree(DEMO_MODEL, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"num_experts": 8, "num_experts_per_tok": 2}))
    asked = {"profile": "h200x1", "model": str(model), "max_tokens": 100, "top_k": 512}
    layers = config["num_hidden_layers"]
    for stored, per_token in [
        ({}, BYTES_PER_TOKEN),
        ({"sampling_mask": True}, BYTES_PER_TOKEN + BYTES_PER_ID * USUAL_MASK),
        ({"routed_experts": True}, BYTES_PER_TOKEN + BYTES_PER_EXPERT * 2 * layers),
    ]:
        run = plan_run(config_from_parameters({"questions": 2, **asked, **stored}), tmp_path / "runs")
        assert output_size(run).most == 2 * 8 * 100 * per_token


@dataclass
class FreeingReader(FakeReader):
    """Eight GPUs that free 1 GiB of a killed engine's memory at each reading."""

    looks: int = 0

    def gpu(self, index: int) -> GpuReading:
        self.looks += 1
        held = max(0, 16 - self.looks) << 30
        return healthy(index, memory_free=(81008 << 20) - held)


def test_memory_that_is_being_freed_fails_no_run(tmp_path: Path) -> None:
    run = plan(tmp_path, profile="h100x8-replicas", model="demo")
    with contextlib.suppress(PreflightFailed):  # this machine lacks memory and packages of the profile
        run_preflight(run, None, reader=FreeingReader(gpus=[healthy(index) for index in range(8)]))
    checks = json.loads(run.paths.preflight.read_text())["checks"]
    assert [check["status"] for check in checks if check["name"] == "free memory"] == ["pass"] * 8
