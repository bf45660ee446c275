"""Checks the node itself, for CPU and GPU profiles alike: memory, disk, limits and permissions."""

import os
import resource
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from profiles.schema import Profile
from tasks.files import DISK_FLOOR, nearest_existing
from tasks.node.check_result import CheckResult, Status
from tasks.node.engine_caches import check_engine_caches
from tasks.node.host_memory import HostMemory, read_host_memory
from tasks.process_limits import OPEN_FILES_LEAST
from tasks.units import GIB, MIB, format_gib

SHARED_MEMORY = Path("/dev/shm")
SHM_LEAST = 256 * MIB
SHM_COMFORTABLE = GIB
"""vLLM's message queues take up to 160 MiB for each tensor-parallel worker, as they fill. NCCL takes some more."""

OPEN_FILES_COMFORTABLE = 4096


@dataclass(frozen=True, kw_only=True)
class OutputSize:
    """The output that a run still has to write."""

    expected: int
    """Bytes with completions of the expected length."""
    most: int
    """Bytes when every completion has max_tokens."""


def host_checks(
    profile: Profile, *, runs_dir: Path, host_bytes: int | None, output: OutputSize | None
) -> list[CheckResult]:
    """Every check that needs no GPU. ``host_bytes`` is the host memory that the engines take, None when unknown."""
    return [
        check_ram(profile, read_host_memory(), host_bytes),
        check_shared_memory(profile, _free(SHARED_MEMORY)),
        check_writable(runs_dir),
        check_disk(runs_dir, output),
        check_open_files(resource.getrlimit(resource.RLIMIT_NOFILE)),
        check_engine_caches(os.environ),
    ]


def check_ram(profile: Profile, memory: HostMemory, host_bytes: int | None) -> CheckResult:
    """Check host memory against the profile's limit and against the ``host_bytes`` that the engines take."""
    floor = int((profile.expect.ram_gib or 0) * GIB)
    status: Status = "pass"
    remedy = ""
    if memory.total < floor:
        status, remedy = "fail", f"Raise the {memory.limited_by}'s memory, or use a profile for a smaller node"
    elif host_bytes is not None and memory.available < host_bytes:
        status = "fail" if profile.expect.device == "cpu" else "warn"
        remedy = "Stop other programs, or lower replicas, kv_cache_space_gib or what is offloaded"
    limits = [f"{format_gib(floor)} in all"] if floor else []
    if host_bytes is not None:
        limits.append(f"{format_gib(host_bytes)} free")
    return CheckResult(
        name="host memory",
        status=status,
        value=f"{format_gib(memory.available)} free of {memory.total / GIB:.1f} ({memory.limited_by})",
        limit=", ".join(limits),
        remedy=remedy,
    )


def check_shared_memory(profile: Profile, free: int | None) -> CheckResult:
    """Check the room in /dev/shm, which the processes of an engine of several GPUs share; ``free`` is in bytes."""
    if free is None:
        return CheckResult(name="shared memory", status="skipped", value=f"{SHARED_MEMORY} cannot be read")
    status: Status = "pass"
    if free < SHM_COMFORTABLE:
        needs_it = profile.engine.gpus > 1 and free < SHM_LEAST
        status = "fail" if needs_it else "warn" if profile.expect.device == "cuda" else "pass"
    return CheckResult(
        name="shared memory",
        status=status,
        value=f"{format_gib(free, 2)} free in {SHARED_MEMORY}",
        limit=f"{SHM_COMFORTABLE / GIB:g} GiB",
        remedy="" if status == "pass" else "Start the container with --shm-size=16g or --ipc=host",
    )


def check_writable(runs_dir: Path) -> CheckResult:
    """Check ``runs_dir``, or its nearest existing parent, with a file that is written and removed."""
    target = nearest_existing(runs_dir)
    try:
        with tempfile.NamedTemporaryFile(dir=target, prefix=".preflight.") as file:
            file.write(b"preflight")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return CheckResult(
            name="run directory",
            status="fail",
            value=f"{target} cannot be written: {error.strerror}",
            limit="writable",
            remedy="Fix its permissions, or choose another directory for the runs",
        )
    return CheckResult(name="run directory", status="pass", value=f"{target} is writable")


def check_disk(runs_dir: Path, output: OutputSize | None) -> CheckResult:
    """Check that the disk holds twice the output: the files of a run, and the copies made while publishing them.

    The check fails when the expected output does not fit, and warns when the largest possible output does not.
    """
    target = nearest_existing(runs_dir)
    free = shutil.disk_usage(target).free
    needed = max(DISK_FLOOR, 2 * output.expected if output else 0)
    most = max(DISK_FLOOR, 2 * output.most if output else 0)
    status: Status = "fail" if free < needed else "warn" if free < most else "pass"
    limits = [f"{format_gib(needed)}, {'twice the expected output' if needed > DISK_FLOOR else 'at least'}"]
    if most > needed:
        limits.append(f"{format_gib(most)} if every completion runs to max_tokens")
    return CheckResult(
        name="disk",
        status=status,
        value=f"{format_gib(free)} free on {target}",
        limit="; ".join(limits),
        remedy="" if status == "pass" else "Free space, or choose another directory for the runs",
    )


def check_open_files(limits: tuple[int, int]) -> CheckResult:
    """Check the process's limit on open files, given as (soft, hard); -1 means no limit."""
    soft, hard = limits
    unlimited = soft == resource.RLIM_INFINITY
    status: Status = "pass"
    if not unlimited and soft < OPEN_FILES_COMFORTABLE:
        status = "fail" if soft < OPEN_FILES_LEAST else "warn"
    return CheckResult(
        name="open files",
        status=status,
        value="unlimited" if unlimited else str(soft),
        limit=str(OPEN_FILES_COMFORTABLE),
        remedy=""
        if status == "pass"
        else f"Run ulimit -n {OPEN_FILES_COMFORTABLE}"
        + ("" if hard == -1 or hard >= OPEN_FILES_COMFORTABLE else " as root"),
    )


def _free(path: Path) -> int | None:
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None
