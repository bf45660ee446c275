"""Tests the real binding, nvidia-ml-py, with a compiled stub of the driver's library, in a child process."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.nvml_stub import build_stub, has_compiler, stub_environment

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not has_compiler(), reason="gcc is not installed, so the stub cannot be built"),
]

PREFLIGHT = """
import json, os, sys
from pathlib import Path
from profiles.load import load_profile
from tasks.node.node_checks import check_node
reports = {}
for fault in sys.argv[3:]:
    os.environ["NVML_STUB_FAULT"] = fault
    report = check_node(load_profile(sys.argv[1]), model_path=None, runs_dir=Path(sys.argv[2]))
    reports[fault] = report.to_json()
print(json.dumps(reports))
"""


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_stub(tmp_path_factory.mktemp("nvml"))


def run(stub: Path, *faults: str, profile: str = "h100x8", runs_dir: Path | None = None, **env: str) -> Any:
    """The report of each fault, all from one child process."""
    result = subprocess.run(
        [sys.executable, "-c", PREFLIGHT, profile, str(runs_dir or stub / "runs"), *faults],
        env=stub_environment(stub, **env),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def reports(stub: Path) -> Any:
    return run(stub, "", *(fault for fault, *_ in FAULTS + NODE_FAULTS))


def gpu_checks(report: Any, status: str) -> list[Any]:
    return [check for check in report["checks"] if check["status"] == status and check["gpu"] is not None]


def test_eight_healthy_h100s_pass(reports: Any) -> None:
    report = reports[""]
    answering = [check for check in report["checks"] if check["name"] == "answers"]
    assert [check["value"] for check in answering] == ["NVIDIA H100 80GB HBM3"] * 8
    assert report["worst"] in ("pass", "warn")  # the machine that runs the tests may have little /dev/shm
    assert gpu_checks(report, "fail") == gpu_checks(report, "warn") == []
    assert {check["name"] for check in gpu_checks(report, "skipped")} == {"retired pages"}


FAULTS = [
    ("remap_pending", "row remapping", "fail", "Reset the GPU"),
    ("remap_failed", "row remapping", "fail", "replaced"),
    ("unreadable", "row remapping", "skipped", ""),
    ("gpu_lost", "answers", "fail", "Reset the GPU"),
    ("reset_required", "answers", "fail", "Reset the GPU"),
    ("recovery", "recovery action", "fail", "nvidia-smi --gpu-reset"),
    ("throttle", "clocks", "fail", "fans"),
    ("power_brake", "clocks", "fail", "power supplies"),
    ("sw_thermal", "clocks", "warn", "fans"),
    ("near_slowdown", "temperature", "warn", "fans"),
    ("hot", "temperature", "fail", "fans"),
    ("ecc_off", "ECC", "warn", "--ecc-config=1"),
    ("ecc_errors", "uncorrected ECC errors", "fail", "Reset the GPU"),
    ("mig", "MIG", "fail", "nvidia-smi -mig 0"),
    ("prohibited", "compute mode", "fail", "--compute-mode=0"),
    ("no_persistence", "persistence mode", "warn", "nvidia-persistenced"),
    ("nvlink_down", "NVLink", "fail", "Reset the GPUs"),
    ("no_p2p", "P2P", "fail", "tensor_parallel_size 1"),
    ("no_fabric", "NVLink fabric", "fail", "nvidia-fabricmanager"),
    ("pcie", "PCIe width", "warn", "reseat"),
    ("wrong_model", "model", "fail", "use a profile that fits"),
    ("foreign_process", "free memory", "fail", "Stop pid 4242 (40.0 GiB)"),
]


@pytest.mark.parametrize(("fault", "name", "status", "remedy"), FAULTS)
def test_each_fault_is_found_on_its_gpu_with_a_remedy(
    reports: Any, fault: str, name: str, status: str, remedy: str
) -> None:
    report = reports[fault]
    (check,) = [check for check in report["checks"] if check["name"] == name and check["gpu"] == 3]
    assert check["status"] == status
    assert remedy.lower() in check["remedy"].lower()
    others = [check for check in report["checks"] if check["gpu"] not in (None, 3)]
    assert {check["status"] for check in others} == {"pass", "skipped"}
    assert (report["worst"] == "fail") == (status == "fail")


NODE_FAULTS = [
    ("wrong_count", "GPU count", "7", "h100x4"),
    ("old_driver", "driver CUDA version", "11.8 (driver 580.159.04)", "Update the NVIDIA driver"),
    ("no_driver", "NVIDIA driver", "no NVIDIA driver was found", "cpu-demo"),
]


@pytest.mark.parametrize(("fault", "name", "value", "remedy"), NODE_FAULTS)
def test_each_fault_of_the_node_is_found_with_a_remedy(
    reports: Any, fault: str, name: str, value: str, remedy: str
) -> None:
    report = reports[fault]
    (check,) = [check for check in report["checks"] if check["name"] == name]
    assert check["status"] == report["worst"] == "fail"
    assert value in check["value"]
    assert remedy in check["remedy"]


def test_leftover_engine_of_an_earlier_run_is_marked(stub: Path, tmp_path: Path) -> None:
    log = tmp_path / "run-1" / "logs" / "replica-0.log"
    log.parent.mkdir(parents=True)
    with log.open("w") as output:
        process = subprocess.Popen(["sleep", "infinity"], stdout=output)
    try:
        report = run(stub, "foreign_process", runs_dir=tmp_path, NVML_STUB_PID=str(process.pid))["foreign_process"]
    finally:
        process.kill()
        process.wait()
    (check,) = [check for check in report["checks"] if check["name"] == "foreign processes" and check["gpu"] == 3]
    assert f"pid {process.pid} (40.0 GiB, left over from an earlier run)" in check["value"]


def test_only_the_gpus_that_the_run_uses_are_checked(stub: Path) -> None:
    report = run(stub, "gpu_lost", profile="h100x4", CUDA_VISIBLE_DEVICES="4,5,6,7")["gpu_lost"]
    assert {check["gpu"] for check in report["checks"]} == {None, 4, 5, 6, 7}
    assert gpu_checks(report, "fail") == []


def test_telemetry_reads_the_gpus(stub: Path, tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from profiles.load import load_profile
from tasks.node.telemetry import TelemetrySampler
with TelemetrySampler(Path(sys.argv[1]), load_profile("h100x8"), list):
    pass
"""
    path = tmp_path / "telemetry.parquet"
    subprocess.run([sys.executable, "-c", script, str(path)], env=stub_environment(stub), check=True)
    import polars as pl

    frame = pl.read_parquet(path)
    assert set(frame.get_column("index")) == set(range(8))
    first = frame.row(0, named=True)
    assert (first["utilization_percent"], first["power_w"], first["sm_clock_mhz"]) == (95, 612.5, 1980)
    assert first["memory_used"] == 551 << 20
