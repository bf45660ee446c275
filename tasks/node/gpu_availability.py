"""Checks that a run can use a GPU: free memory, other processes, MIG, compute and persistence mode."""

import contextlib
import os
from pathlib import Path

from tasks.node.check_result import CheckResult
from tasks.node.gpu_health import unreadable
from tasks.node.gpu_reading import GpuProcess, GpuReading
from tasks.node.mps import Mps, is_mps_server
from tasks.process_tree import descendants
from tasks.units import GIB, format_gib

SPARE_BYTES = GIB // 2
"""Free memory that an engine needs beside its share: vLLM does not count the CUDA context and NCCL."""

_COMPUTE_MODES = {0: "default", 1: "exclusive thread", 2: "prohibited", 3: "exclusive process"}


def availability_checks(
    gpu: GpuReading, *, utilization: float, runs_dir: Path, engines: int = 1, mps: Mps | None = None
) -> list[CheckResult]:
    """The availability checks of one answering GPU; ``utilization`` is gpu_memory_utilization.

    ``engines`` share the GPU, with ``mps``. Together they need no more memory than one: see gpu_sharing.py.
    """
    return [
        _free_memory(gpu, utilization, runs_dir, engines),
        _processes(gpu, runs_dir),
        _mig(gpu),
        _compute_mode(gpu, takes_turns=engines > 1 and (mps is None or not mps.on)),
        _persistence(gpu),
    ]


def needed_bytes(gpu: GpuReading, utilization: float) -> int | None:
    """Free memory that an engine needs on this GPU before it starts, in bytes; None when the GPU's size is unknown."""
    if gpu.memory_total is None:
        return None
    return int((gpu.memory_total - (gpu.memory_reserved or 0)) * utilization) + SPARE_BYTES


def is_leftover(pid: int, runs_dir: Path, proc: Path = Path("/proc")) -> bool:
    """True when the process writes to a log below ``runs_dir``, as every engine process of a run does."""
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            if (proc / str(pid) / "fd" / str(descriptor)).readlink().is_relative_to(runs_dir.resolve()):
                return True
    return False


def _free_memory(gpu: GpuReading, utilization: float, runs_dir: Path, engines: int) -> CheckResult:
    needed = needed_bytes(gpu, utilization)
    if needed is None or gpu.memory_free is None:
        return unreadable("free memory", gpu, "memory_free")
    short = gpu.memory_free < needed
    remedy = ""
    if short:
        holders = _describe(gpu.processes or (), runs_dir)
        action = (
            f"Stop {holders}"
            if holders
            else "Find the process that holds it (those of other containers are not listed)"
        )
        remedy = f"{action}, or lower gpu_memory_utilization"
    return CheckResult(
        name="free memory",
        status="fail" if short else "pass",
        value=format_gib(gpu.memory_free),
        limit=f"{format_gib(needed)} for gpu_memory_utilization {utilization:g}"
        + (f" of {engines} engines" if engines > 1 else ""),
        remedy=remedy,
        gpu=gpu.index,
    )


def _processes(gpu: GpuReading, runs_dir: Path) -> CheckResult:
    if gpu.processes is None:
        return unreadable("foreign processes", gpu, "processes")
    own = {os.getpid(), *(record.pid for record in descendants(os.getpid()))}
    foreign = tuple(process for process in gpu.processes if process.pid not in own and not is_mps_server(process.pid))
    if not foreign:
        return CheckResult(name="foreign processes", status="pass", value="none", gpu=gpu.index)
    leftover = any(is_leftover(process.pid, runs_dir) for process in foreign)
    return CheckResult(
        name="foreign processes",
        status="warn",
        value=_describe(foreign, runs_dir),
        limit="none",
        remedy="Kill the engine of the earlier run" if leftover else "They take GPU time from this run. Stop them",
        gpu=gpu.index,
    )


def _describe(processes: tuple[GpuProcess, ...], runs_dir: Path) -> str:
    parts = []
    for process in processes:
        held = "memory unknown" if process.used_bytes is None else format_gib(process.used_bytes)
        mark = ", left over from an earlier run" if is_leftover(process.pid, runs_dir) else ""
        parts.append(f"pid {process.pid} ({held}{mark})")
    return ", ".join(parts)


def _mig(gpu: GpuReading) -> CheckResult:
    if gpu.mig_enabled is None:
        return unreadable("MIG", gpu, "mig_enabled")
    return CheckResult(
        name="MIG",
        status="fail" if gpu.mig_enabled else "pass",
        value="on" if gpu.mig_enabled else "off",
        limit="off",
        remedy="MIG splits the GPU, and an engine needs all of it. Run nvidia-smi -mig 0" if gpu.mig_enabled else "",
        gpu=gpu.index,
    )


def _compute_mode(gpu: GpuReading, *, takes_turns: bool) -> CheckResult:
    """``takes_turns``: several engines are on the GPU without MPS, so an exclusive mode refuses all but the first."""
    if gpu.compute_mode is None:
        return unreadable("compute mode", gpu, "compute_mode")
    prohibited = gpu.compute_mode == 2 or (takes_turns and gpu.compute_mode != 0)
    return CheckResult(
        name="compute mode",
        status="fail" if prohibited else "pass" if gpu.compute_mode == 0 else "warn",
        value=_COMPUTE_MODES.get(gpu.compute_mode, str(gpu.compute_mode)),
        limit="default, as engines share the GPU without MPS" if takes_turns else "default",
        remedy="" if gpu.compute_mode == 0 else "Run nvidia-smi --compute-mode=0",
        gpu=gpu.index,
    )


def _persistence(gpu: GpuReading) -> CheckResult:
    if gpu.persistence_mode is None:
        return unreadable("persistence mode", gpu, "persistence_mode")
    return CheckResult(
        name="persistence mode",
        status="pass" if gpu.persistence_mode else "warn",
        value="on" if gpu.persistence_mode else "off",
        limit="on",
        remedy="" if gpu.persistence_mode else "The driver loads again at every start. Run nvidia-persistenced",
        gpu=gpu.index,
    )
