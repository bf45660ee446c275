from pathlib import Path
from typing import Any

import pytest

from profiles.load import load_profile, profile_names
from profiles.schema import Profile
from tasks.node.check_result import CheckResult
from tasks.node.gpu_checks import fits, fitting_profiles, gpu_checks
from tasks.node.gpu_reading import GpuProcess, GpuReading, RemappedRows
from tasks.node.gpu_selection import gpus_needed
from tasks.node.node_checks import check_node
from tasks.units import GIB, MIB
from tests.support.fake_nvml import FakeReader, healthy


def profile(tp: int = 2, **engine: Any) -> Profile:
    return Profile.model_validate(
        {
            "name": "test",
            "engine": {"tensor_parallel_size": tp, "gpu_memory_utilization": 0.95, **engine},
            "expect": {"gpu_name": "H100", "gpu_count": tp, "gpu_memory_gib": 79, "compute_capability": 9.0},
        }
    )


def check(name: str, gpu: GpuReading, *, settings: Profile | None = None, **reader: Any) -> CheckResult:
    settings = settings or profile()
    fake = FakeReader(gpus=[gpu, *(healthy(index) for index in range(1, gpus_needed(settings)))], **reader)
    found = gpu_checks(
        settings, fake, fake.driver(), fake.gpus, runs_dir=Path("runs"), event_interval_s=0, torch_cuda=(12, 8)
    )
    (result,) = [result for result in found if result.name == name and result.gpu in (None, 0)]
    return result


def rows(**changes: Any) -> RemappedRows:
    return RemappedRows(**{"correctable": 0, "uncorrectable": 0, "pending": False, "failed": False} | changes)


OUTCOMES: list[tuple[str, dict[str, Any], str]] = [
    ("answers", {}, "pass"),
    ("answers", {"error": "GPU is lost"}, "fail"),
    ("model", {}, "pass"),
    ("model", {"name": "NVIDIA A100-SXM4-80GB"}, "fail"),
    ("memory", {"memory_total": 40960 * MIB}, "fail"),
    ("model", {"name": None}, "skipped"),
    ("memory", {}, "pass"),
    ("memory", {"memory_total": None}, "skipped"),
    ("compute capability", {}, "pass"),
    ("compute capability", {"compute_capability": (8, 0)}, "fail"),
    ("compute capability", {"compute_capability": None}, "skipped"),
    ("recovery action", {}, "pass"),
    ("recovery action", {"recovery_action": 1}, "fail"),
    ("recovery action", {"recovery_action": 99}, "fail"),
    ("recovery action", {"recovery_action": None}, "skipped"),
    ("row remapping", {"remapped_rows": rows(correctable=3)}, "pass"),
    ("row remapping", {"remapped_rows": rows(pending=True)}, "fail"),
    ("row remapping", {"remapped_rows": rows(failed=True)}, "fail"),
    ("row remapping", {"remapped_rows": None}, "skipped"),
    ("retired pages", {}, "pass"),
    ("retired pages", {"retired_pages_pending": True}, "fail"),
    ("retired pages", {"retired_pages_pending": None}, "skipped"),
    ("ECC", {}, "pass"),
    ("ECC", {"ecc_enabled": False}, "warn"),
    ("ECC", {"ecc_enabled": None}, "skipped"),
    ("uncorrected ECC errors", {}, "pass"),
    ("uncorrected ECC errors", {"uncorrected_ecc": 1}, "fail"),
    ("uncorrected ECC errors", {"uncorrected_ecc": None}, "skipped"),
    ("temperature", {"temperature_c": 83}, "pass"),
    ("temperature", {"temperature_c": 84}, "warn"),
    ("temperature", {"temperature_c": 89}, "fail"),
    ("temperature", {"temperature_c": 84, "slowdown_c": 100}, "pass"),
    ("temperature", {"slowdown_c": None}, "skipped"),
    ("temperature", {"temperature_c": None}, "skipped"),
    ("free memory", {}, "pass"),
    ("free memory", {"memory_free": 70 * GIB}, "fail"),
    ("free memory", {"memory_free": None}, "skipped"),
    ("foreign processes", {}, "pass"),
    ("foreign processes", {"processes": (GpuProcess(pid=77, used_bytes=None),)}, "warn"),
    ("foreign processes", {"processes": None}, "skipped"),
    ("MIG", {}, "pass"),
    ("MIG", {"mig_enabled": True}, "fail"),
    ("MIG", {"mig_enabled": None}, "skipped"),
    ("compute mode", {}, "pass"),
    ("compute mode", {"compute_mode": 2}, "fail"),
    ("compute mode", {"compute_mode": 3}, "warn"),
    ("compute mode", {"compute_mode": None}, "skipped"),
    ("persistence mode", {}, "pass"),
    ("persistence mode", {"persistence_mode": False}, "warn"),
    ("persistence mode", {"persistence_mode": None}, "skipped"),
    ("NVLink", {}, "pass"),
    ("NVLink", {"nvlinks": (True, False)}, "fail"),
    ("NVLink", {"nvlinks": None}, "skipped"),
    ("P2P", {}, "pass"),
    ("P2P", {"p2p": {1: 4}}, "fail"),
    ("P2P", {"p2p": {}}, "skipped"),
    ("P2P", {"p2p": None}, "skipped"),
    ("NVLink fabric", {}, "pass"),
    ("NVLink fabric", {"fabric_state": 2}, "fail"),
    ("NVLink fabric", {"fabric_state": 0}, "skipped"),
    ("NVLink fabric", {"fabric_state": None}, "skipped"),
    ("PCIe width", {}, "pass"),
    ("PCIe width", {"pcie_width": 8}, "warn"),
    ("PCIe width", {"pcie_width": None}, "skipped"),
    ("PCIe width", {"pcie_max_width": None}, "skipped"),
]


@pytest.mark.parametrize(("name", "changes", "status"), OUTCOMES)
def test_every_outcome_of_every_check(name: str, changes: dict[str, Any], status: str) -> None:
    result = check(name, healthy(**changes))
    assert result.status == status
    assert bool(result.remedy) == (status in ("warn", "fail"))


@pytest.mark.parametrize(
    ("name", "changes", "status"),
    [
        ("NVLink", {"nvlinks": (False,) * 18}, "skipped"),
        ("NVLink", {"nvlinks": (True, False)}, "warn"),
        ("P2P", {"p2p": {1: 4}}, "skipped"),
        ("NVLink fabric", {"fabric_state": 1}, "warn"),
    ],
)
def test_links_do_not_stop_an_engine_of_one_gpu(name: str, changes: dict[str, Any], status: str) -> None:
    assert check(name, healthy(**changes), settings=profile(tp=1)).status == status


@pytest.mark.parametrize(
    ("samples", "status", "said"),
    [
        ((0x1, 0x1, 0x1), "pass", "idle"),
        ((0x4, 0x4, 0x4), "pass", "power cap"),
        ((0x48, 0x48, 0x48), "fail", "hardware thermal slowdown"),
        ((0x88, 0x88, 0x88), "fail", "hardware power brake"),
        ((0x48, 0x0, 0x48), "warn", "hardware thermal slowdown"),
        ((0x80, 0x0, 0x0), "warn", "hardware power brake"),
        ((0x20, 0x20, 0x20), "warn", "software thermal slowdown"),
        ((0x8, 0x8, 0x8), "warn", "hardware slowdown"),
        ((0x1, None, 0x1), "skipped", "unreadable"),
        ((None, None, None), "skipped", "unreadable"),
    ],
)
def test_clocks_are_checked_over_three_samples(samples: tuple[int | None, ...], status: str, said: str) -> None:
    result = check("clocks", healthy(), events=samples)
    assert result.status == status
    assert said in result.value


@pytest.mark.parametrize(
    ("cuda", "torch", "status"),
    [
        ((13, 0), (12, 8), "pass"),
        ((12, 8), (12, 8), "pass"),
        ((12, 4), (12, 8), "warn"),
        ((11, 8), (12, 8), "fail"),
        (None, (12, 8), "skipped"),
        ((13, 0), None, "skipped"),
    ],
)
def test_driver_must_support_torchs_cuda(
    cuda: tuple[int, int] | None, torch: tuple[int, int] | None, status: str
) -> None:
    fake = FakeReader(gpus=[healthy(0), healthy(1)], cuda_version=cuda)
    found = gpu_checks(
        profile(), fake, fake.driver(), fake.gpus, runs_dir=Path("runs"), event_interval_s=0, torch_cuda=torch
    )
    assert [result.status for result in found if result.name == "driver CUDA version"] == [status]


def test_batch_invariant_profiles_need_ampere() -> None:
    turing = healthy(name="NVIDIA H100", compute_capability=(7, 5))
    old = Profile.model_validate({"name": "old", "engine": {"batch_invariant": True}, "expect": {"gpu_count": 1}})
    assert check("compute capability", turing, settings=old).status == "fail"


def test_too_few_gpus_fail_the_count() -> None:
    fake = FakeReader(gpus=[healthy(0)])
    found = gpu_checks(
        profile(tp=2), fake, fake.driver(), fake.gpus, runs_dir=Path("runs"), event_interval_s=0, fitting="Use h100x1"
    )
    (count,) = [result for result in found if result.name == "GPU count"]
    assert (count.status, count.value, count.remedy) == ("fail", "1", "Use h100x1")


SHIPPED = [load_profile(name) for name in profile_names()]


@pytest.mark.parametrize(
    ("gpus", "fitting", "not_fitting"),
    [
        ([], {"cpu-demo"}, {"h100x8", "h200x1"}),
        ([healthy(i) for i in range(8)], {"h100x8", "h100x4"}, {"cpu-demo", "h200x1"}),
        ([healthy(0, error="GPU is lost")], {"cpu-demo"}, {"h100x8"}),
        ([healthy(i, compute_capability=None) for i in range(8)], {"cpu-demo"}, {"h100x8", "h100x4"}),
        ([healthy(i, memory_total=None) for i in range(8)], {"cpu-demo"}, {"h100x8", "h100x4"}),
        ([healthy(0, name="NVIDIA H200", memory_total=143771 * MIB)], {"h200x1"}, {"cpu-demo", "h100x8"}),
    ],
)
def test_profiles_that_fit_are_suggested(gpus: list[GpuReading], fitting: set[str], not_fitting: set[str]) -> None:
    names = set(fitting_profiles(SHIPPED, gpus))
    assert fitting <= names
    assert not names & not_fitting


def test_missing_driver_fails_a_gpu_profile_and_names_one_that_fits(tmp_path: Path) -> None:
    report = check_node(
        load_profile("h100x8"), model_path=None, runs_dir=tmp_path, reader=FakeReader(no_driver="Driver Not Loaded")
    )
    (driver,) = [result for result in report.checks if result.name == "NVIDIA driver"]
    assert "no NVIDIA driver was found (Driver Not Loaded)" in driver.value
    assert driver.remedy.endswith("use a profile that fits this node: cpu-demo")
    assert fits(load_profile("cpu-demo"), [])
