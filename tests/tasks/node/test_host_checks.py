import os
import stat
from pathlib import Path
from typing import Any

import pytest

from profiles.schema import Profile
from tasks.files import DISK_FLOOR
from tasks.node.host_checks import (
    OutputSize,
    check_disk,
    check_open_files,
    check_ram,
    check_shared_memory,
    check_writable,
)
from tasks.node.host_memory import HostMemory, read_host_memory
from tasks.units import GIB


def profile(device: str = "cpu", **more: Any) -> Profile:
    expect = {"device": device, "ram_gib": more.pop("ram_gib", None)}
    if device == "cuda":
        expect["gpu_count"] = more.get("tensor_parallel_size", 1)
    return Profile.model_validate({"name": "test", "engine": more, "expect": expect})


def memory(total: int, available: int) -> HostMemory:
    return HostMemory(total=total * GIB, available=available * GIB, limited_by="cgroup")


@pytest.mark.parametrize(
    ("settings", "found", "needed", "status"),
    [
        (profile(ram_gib=4), memory(8, 8), 3 * GIB, "pass"),
        (profile(ram_gib=4), memory(8, 8), None, "pass"),
        (profile(ram_gib=16), memory(8, 8), None, "fail"),
        (profile(), memory(64, 2), 3 * GIB, "fail"),
        (profile("cuda"), memory(64, 2), 3 * GIB, "warn"),
    ],
)
def test_host_memory(settings: Profile, found: HostMemory, needed: int | None, status: str) -> None:
    result = check_ram(settings, found, needed)
    assert result.status == status
    assert "cgroup" in result.value
    assert bool(result.remedy) == (status != "pass")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_cgroup_limit_wins_over_the_machine_and_cache_counts_as_free(tmp_path: Path) -> None:
    group = tmp_path / "sys/fs/cgroup/pod/container"
    write(tmp_path / "proc/self/cgroup", "0::/pod/container\n")
    write(group / "memory.max", f"{64 << 20}\n")
    write(group / "memory.current", f"{40 << 20}\n")
    write(group / "memory.stat", f"anon 1\ninactive_file {30 << 20}\n")
    write(group.parent / "memory.max", "max\n")
    assert read_host_memory(tmp_path) == HostMemory(total=64 << 20, available=54 << 20, limited_by="cgroup")


def test_outer_cgroup_and_version_1_limits_are_read(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "4:memory:/docker/abc\n1:cpu:/\n")
    write(tmp_path / "sys/fs/cgroup/memory/docker/memory.limit_in_bytes", f"{32 << 20}\n")
    write(tmp_path / "sys/fs/cgroup/memory/docker/memory.usage_in_bytes", f"{2 << 20}\n")
    assert read_host_memory(tmp_path).total == 32 << 20
    assert read_host_memory(tmp_path / "nothing").limited_by == "machine"


@pytest.mark.parametrize(
    ("limits", "status"), [((65536, -1), "pass"), ((-1, -1), "pass"), ((2048, 65536), "warn"), ((256, 256), "fail")]
)
def test_open_files(limits: tuple[int, int], status: str) -> None:
    assert check_open_files(limits).status == status


@pytest.mark.parametrize(
    ("expected", "most", "status", "said"),
    [
        (1.0, 2.0, "fail", "twice the expected output"),
        (0.0, 1.0, "warn", "if every completion runs to max_tokens"),
        (0.0, 0.0, "pass", "at least"),
    ],
)
def test_disk_holds_twice_the_output(tmp_path: Path, expected: float, most: float, status: str, said: str) -> None:
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    output = OutputSize(expected=int(expected * free), most=int(most * free))
    if free < 2 * DISK_FLOOR:
        pytest.skip("the disk of this machine is nearly full")
    found = check_disk(tmp_path / "runs" / "later", output)
    assert found.status == status
    assert said in found.limit
    assert bool(found.remedy) == (status != "pass")


def test_run_directory_check_writes_a_file(tmp_path: Path) -> None:
    assert check_writable(tmp_path / "made" / "later").status == "pass"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    assert check_writable(tmp_path / "file").status == "fail"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_run_directory_without_permission_fails(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    assert check_writable(tmp_path).status == "fail"


@pytest.mark.parametrize(
    ("settings", "free", "status"),
    [
        (profile("cuda", tensor_parallel_size=8), GIB, "pass"),
        (profile("cuda", tensor_parallel_size=8), 512 << 20, "warn"),
        (profile("cuda", tensor_parallel_size=8), 64 << 20, "fail"),  # the default of a container
        (profile("cuda"), 64 << 20, "warn"),
        (profile(), 64 << 20, "pass"),
        (profile(), None, "skipped"),
    ],
)
def test_shared_memory(settings: Profile, free: int | None, status: str) -> None:
    found = check_shared_memory(settings, free)
    assert found.status == status
    assert ("--shm-size" in found.remedy) == (status in ("warn", "fail"))
