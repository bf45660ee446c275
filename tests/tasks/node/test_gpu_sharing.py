"""Engines that share a GPU: the part of each, what the plan and preflight say of it, and how many fit."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from profiles.engine_settings import EngineSettings
from profiles.load import load_profile
from profiles.schema import Profile
from tasks.errors import ConfigError
from tasks.node.check_result import CheckResult
from tasks.node.engines_per_gpu import engines_that_fit
from tasks.node.gpu_availability import availability_checks, needed_bytes
from tasks.node.gpu_checks import gpu_checks
from tasks.node.gpu_reading import GpuProcess, GpuReading
from tasks.node.gpu_selection import gpus_needed, gpus_of_run, gpus_per_replica, read_gpu_bytes, read_used_gpus
from tasks.node.gpu_sharing import FURTHER_PROCESS_BYTES, LEAST_SHARE, share_gpu
from tasks.node.memory_plan import MemoryPlan, plan_memory
from tasks.node.mps import Mps
from tasks.node.node_checks import check_memory_plan
from tasks.node.preflight_report import PreflightReport
from tasks.node.preflight_view import render_plan
from tasks.plan.run_config import RunConfig
from tasks.plan.run_plan import RunPlan, plan_run
from tasks.units import GIB
from tests.support.fake_mps import install_fake_mps
from tests.support.fake_nvml import FakeReader, healthy
from tests.tasks.node.test_memory_plan import LLAMA_8B, LLAMA_70B, QWEN_7B

H100, H200 = int(79.1 * GIB), int(139.8 * GIB)


def shared(engines: int, *, gpus: int = 1, profile: str = "h200x1", **engine: Any) -> Profile:
    base, size = load_profile(profile), engine.get("tensor_parallel_size", 1)
    expect = base.expect.model_copy(update={"gpu_count": gpus, "gpu_name": "H100", "gpu_memory_gib": 79})
    return Profile.model_validate(
        base.model_dump()
        | {"replicas": engines * gpus // size, "replicas_per_gpu": engines, "expect": expect.model_dump()}
        | {"engine": base.engine.model_dump() | engine}
    )


@pytest.mark.parametrize(
    ("utilization", "engines", "gib", "share"),
    [
        pytest.param(0.95, 1, 80, 0.95, id="one engine"),
        pytest.param(0.95, 2, 80, 0.4687, id="(0.95 x 80 - 1) / 2 of 80"),
        pytest.param(0.90, 3, 100, 0.2933, id="two further processes"),
        pytest.param(0.90, 2, None, 0.45, id="memory unknown"),
        pytest.param(0.90, 8, 4, LEAST_SHARE, id="no room beside the processes"),
    ],
)
def test_each_engine_is_told_its_part(utilization: float, engines: int, gib: int | None, share: float) -> None:
    settings = EngineSettings(gpu_memory_utilization=utilization)
    found = share_gpu(settings, engines, gib and gib * GIB)
    assert found == settings.model_copy(update={"gpu_memory_utilization": share})


@pytest.mark.parametrize("engines", range(1, 9))
def test_engines_together_take_no_more_than_preflight_asks_for(engines: int) -> None:
    gpu = healthy()
    assert gpu.memory_total is not None
    total, context = gpu.memory_total - (gpu.memory_reserved or 0), FURTHER_PROCESS_BYTES // 2
    share = share_gpu(EngineSettings(gpu_memory_utilization=0.95), engines, total).gpu_memory_utilization
    needed = needed_bytes(gpu, 0.95)
    assert needed is not None
    assert int(engines * (share * total + context)) <= needed


def plan(folder: Path, profile: Profile, config: dict[str, Any], gpu_bytes: int = H100) -> MemoryPlan:
    (folder / "config.json").write_text(json.dumps(config))
    return plan_memory(
        profile, folder, arms=8, expected_length=250, prompt_length=150, max_tokens=384, gpu_bytes=gpu_bytes
    )


def test_the_plan_shows_the_part_of_one_engine_and_chooses_its_batch_from_it(tmp_path: Path) -> None:
    alone, part = (plan(tmp_path, shared(engines), LLAMA_8B) for engines in (1, 2))
    assert alone.engine_bytes is not None
    assert part.engine_bytes == pytest.approx((alone.engine_bytes - FURTHER_PROCESS_BYTES) / 2, rel=0.001)
    assert (alone.replicas_per_gpu, alone.process_bytes) == (1, None)
    assert (part.replicas_per_gpu, part.process_bytes) == (2, FURTHER_PROCESS_BYTES)
    assert (part.device_bytes, part.weight_bytes) == (alone.device_bytes, alone.weight_bytes)
    assert alone.auto is not None
    assert part.auto is not None
    assert part.auto.first_sequences < alone.auto.first_sequences <= 1024
    # what was chosen fits
    assert part.batch_fits
    from rich.console import Console

    console = Console(width=200)
    with console.capture() as capture:
        console.print(render_plan(part, ()))
    assert "engines per GPU" in capture.get()
    assert "37.07 GiB, and 1.00 GiB beside it for each further one (estimate)" in capture.get()


def test_weights_that_do_not_fit_twice_are_refused_with_the_figures(tmp_path: Path) -> None:
    found = plan(tmp_path, shared(5), LLAMA_8B)
    (problem,) = found.problems
    assert problem == (
        "5 engines share each GPU of 79.1 GiB. Each may take 14.22 GiB, and its weights are 14.96 GiB: not even one "
        "sequence of 2048 tokens fits: 0.00 GiB are left for the KV cache. Lower replicas_per_gpu or max_model_len, or "
        "give the engine more memory or GPUs"
    )
    report = PreflightReport(checks=(check_memory_plan(found),))
    with pytest.raises(ConfigError, match="its weights are"):
        report.raise_if_failed()


@pytest.mark.parametrize(
    ("config", "gpu_bytes", "length", "settings", "fit"),
    [
        pytest.param(QWEN_7B, H100, 256, {}, 2, id="7B on an H100"),
        pytest.param(QWEN_7B, H200, 256, {}, 3, id="7B on an H200"),
        pytest.param(QWEN_7B, H100, 1024, {}, 1, id="long sequences"),
        pytest.param(QWEN_7B, H100, 1024, {"max_num_seqs": 128}, 3, id="fewer seats, long sequences"),
        pytest.param(LLAMA_8B, H100, 256, {}, 1, id="more KV cache per token"),
        pytest.param(LLAMA_70B, H200, 256, {}, 1, id="not even once"),
        pytest.param(QWEN_7B | {"use_sliding_window": True}, H100, 256, {}, 1, id="unknown layout"),
        pytest.param(QWEN_7B, None, 256, {}, 1, id="unknown memory"),
        pytest.param(QWEN_7B, H100, 256, {"tensor_parallel_size": 2}, 1, id="two GPUs per engine"),
    ],
)
def test_engines_that_fit(
    tmp_path: Path, config: dict[str, Any], gpu_bytes: int | None, length: int, settings: dict[str, Any], fit: int
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    profile = shared(1, gpus=settings.get("tensor_parallel_size", 1), **settings)
    assert engines_that_fit(profile, tmp_path, expected_length=length, gpu_bytes=gpu_bytes, gpu_name="H100") == fit
    if fit > 1:
        # what fits is no less than what the plan of that many says
        found = plan(tmp_path, shared(fit, **settings), config, gpu_bytes or 0)
        assert found.problems == found.doubts == ()


def run_plan(folder: Path, profile: Profile) -> RunPlan:
    path = folder / "shared.toml"
    path.write_text(
        f'name = "shared"\nmodel = "demo"\nreplicas = {profile.replicas}\n'
        f"replicas_per_gpu = {profile.replicas_per_gpu}\n[expect]\ngpu_count = {profile.gpus}\n"
    )
    return plan_run(RunConfig(profile=str(path)), folder / "runs")


def test_gpus_count_once_however_many_engines_share_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_plan(tmp_path, shared(2, gpus=2))
    assert gpus_per_replica(run, None) == [["0"], ["0"], ["1"], ["1"]]
    assert gpus_per_replica(run, "5,7,9") == [["5"], ["5"], ["7"], ["7"]]
    with pytest.raises(ConfigError, match=r"needs 2 GPUs \(4 replicas x 1 GPU, 2 on each\), but .* names 1: '5'"):
        gpus_per_replica(run, "5")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1,2")
    assert gpus_of_run(run) == ["3", "1"]
    assert gpus_needed(run.profile) == 2
    reader = FakeReader(
        gpus=[healthy(index, memory_total=(80 - index) * GIB, memory_reserved=GIB) for index in range(4)]
    )
    assert [gpu.index for gpu in read_used_gpus(run.profile, reader)] == [3, 1]
    assert read_gpu_bytes(run.profile, reader) == 76 * GIB


@pytest.mark.parametrize(("expected", "gpu_bytes"), [(79.0, 79 * GIB), (None, None)])
def test_without_a_driver_a_gpu_has_the_memory_that_the_profile_expects(
    expected: float | None, gpu_bytes: int | None
) -> None:
    profile = Profile.model_validate({"name": "p", "expect": {"gpu_memory_gib": expected}})
    assert read_gpu_bytes(profile, FakeReader(no_driver="none")) == gpu_bytes


OFF, ON = Mps(on=False, reason="no"), Mps(on=True, reason="yes")


def check(name: str, gpu: GpuReading, *, engines: int = 2, mps: Mps | None = OFF) -> CheckResult:
    found = availability_checks(gpu, utilization=0.95, runs_dir=Path("runs"), engines=engines, mps=mps)
    (result,) = [result for result in found if result.name == name]
    return result


@pytest.mark.parametrize(
    ("mode", "engines", "mps", "status"),
    [(3, 1, None, "warn"), (3, 2, OFF, "fail"), (3, 2, ON, "warn"), (0, 2, OFF, "pass"), (2, 2, ON, "fail")],
)
def test_an_exclusive_gpu_takes_a_second_engine_only_with_mps(
    mode: int, engines: int, mps: Mps | None, status: str
) -> None:
    assert check("compute mode", healthy(compute_mode=mode), engines=engines, mps=mps).status == status


@pytest.mark.parametrize(("free_gib", "status"), [(75.0, "fail"), (76.5, "pass")])
def test_free_memory_is_compared_with_the_sum_of_the_engines(free_gib: float, status: str) -> None:
    found = check("free memory", healthy(memory_free=int(free_gib * GIB)))
    assert found.status == status
    assert found.limit == "75.7 GiB for gpu_memory_utilization 0.95 of 2 engines"


def test_processes_below_this_one_are_not_foreign() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        pids = (os.getpid(), child.pid, 1)
        processes = [GpuProcess(pid=pid, used_bytes=36 * GIB) for pid in pids]
        assert check("foreign processes", healthy(processes=tuple(processes[:2]))).value == "none"
        assert check("foreign processes", healthy(processes=tuple(processes))).value == "pid 1 (36.0 GiB)"


@pytest.mark.parametrize(("installed", "status"), [(True, "pass"), (False, "warn")])
def test_preflight_says_whether_there_is_mps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: bool, status: str
) -> None:
    monkeypatch.setenv("PATH", install_fake_mps(tmp_path)["PATH"] if installed else str(tmp_path / "nothing"))
    monkeypatch.delenv("CUDA_MPS_PIPE_DIRECTORY", raising=False)
    reader = FakeReader(gpus=[healthy()])

    def mps_checks(profile: Profile) -> list[CheckResult]:
        found = gpu_checks(
            profile, reader, reader.driver(), reader.gpus, runs_dir=tmp_path / "runs", event_interval_s=0
        )
        return [result for result in found if result.name == "MPS"]

    (result,) = mps_checks(shared(2))
    assert (result.status, result.value.startswith("MPS on" if installed else "MPS off")) == (status, True)
    assert mps_checks(shared(1)) == []
