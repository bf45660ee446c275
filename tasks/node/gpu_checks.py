"""Checks that the node has the GPUs that the profile expects, and that they work.

A broken GPU is found here in under a second, not minutes later by an engine that does not start.
"""

import re
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from profiles.schema import Profile
from tasks.node.check_result import CheckResult
from tasks.node.gpu_availability import availability_checks
from tasks.node.gpu_health import health_checks, unreadable
from tasks.node.gpu_links import link_checks
from tasks.node.gpu_reading import DriverReading, GpuReading, NvmlReader
from tasks.node.gpu_selection import gpus_needed, used_gpus, visible_gpus
from tasks.node.mps import Mps, find_mps
from tasks.units import GIB

BATCH_INVARIANT_CAPABILITY = 8.0
"""vLLM's batch-invariant kernels need Ampere or newer."""

EVENT_SAMPLES = 3
EVENT_INTERVAL_S = 0.2


def gpu_checks(
    profile: Profile,
    reader: NvmlReader,
    driver: DriverReading,
    present: Sequence[GpuReading],
    *,
    runs_dir: Path,
    torch_cuda: tuple[int, int] | None = None,
    fitting: str = "",
    event_interval_s: float = EVENT_INTERVAL_S,
) -> list[CheckResult]:
    """Every GPU check of ``profile`` on a node with the GPUs ``present``, which ``reader`` can sample.

    Only the GPUs that the profile uses are checked. ``torch_cuda`` is the CUDA version that torch was built for, or
    None when it is unknown. ``fitting`` is a remedy that names the profiles that fit this node. Takes under a second.
    """
    visible = len(visible_gpus([gpu.uuid for gpu in present]))
    used = used_gpus(profile, present)
    checks = [
        CheckResult(name="NVIDIA driver", status="pass", value=driver.version),
        _count(profile, visible, len(present), fitting),
        _cuda_version(driver, torch_cuda),
    ]
    events = _event_samples(reader, used, event_interval_s)
    mps = find_mps() if profile.replicas_per_gpu > 1 else None
    if mps is not None:
        checks.append(_mps(mps))
    size, utilization = profile.engine.gpus_per_node, profile.engine.gpu_memory_utilization
    linked = min(profile.engine.tensor_parallel_size, size)
    for position, gpu in enumerate(used):
        if gpu.error is not None:
            checks.append(_not_answering(gpu))
            continue
        first = position - position % size
        group = [member.index for member in used[first : first + size]]
        checks += [CheckResult(name="answers", status="pass", value=gpu.name or "unnamed GPU", gpu=gpu.index)]
        checks += _identity(profile, gpu, fitting)
        checks += health_checks(gpu, events[gpu.index])
        checks += availability_checks(
            gpu, utilization=utilization, runs_dir=runs_dir, engines=profile.replicas_per_gpu, mps=mps
        )
        checks += link_checks(gpu, group, tensor_parallel_size=linked)
    return checks


def fits(profile: Profile, gpus: Sequence[GpuReading]) -> bool:
    """True when the node with these GPUs has the hardware that the profile expects; a CPU profile fits every node.

    A GPU counts only when every expected value can be read.
    """
    if profile.expect.device == "cpu":
        return True
    answering = [gpu for gpu in gpus if gpu.error is None]
    alike = [gpu for gpu in answering if all(check.status == "pass" for check in _identity(profile, gpu, ""))]
    return len(alike) >= gpus_needed(profile)


def fitting_profiles(shipped: Iterable[Profile], gpus: list[GpuReading]) -> list[str]:
    """Names of the shipped profiles that fit a node with these GPUs; of CPU profiles only when no GPU profile fits."""
    everything = list(shipped)
    baselines = {profile.baseline for profile in everything}
    fitting = [profile for profile in everything if profile.name not in baselines and fits(profile, gpus)]
    on_gpus = [profile.name for profile in fitting if profile.expect.device == "cuda"]
    return on_gpus or [profile.name for profile in fitting]


def _event_samples(reader: NvmlReader, gpus: Sequence[GpuReading], interval_s: float) -> dict[int, list[int | None]]:
    samples: dict[int, list[int | None]] = {gpu.index: [] for gpu in gpus}
    for turn in range(EVENT_SAMPLES):
        if turn:
            time.sleep(interval_s)
        for gpu in gpus:
            samples[gpu.index].append(None if gpu.error else reader.event_reasons(gpu.index))
    return samples


def _count(profile: Profile, visible: int, present: int, fitting: str) -> CheckResult:
    needed = gpus_needed(profile)
    hidden = f" of {present} (CUDA_VISIBLE_DEVICES)" if visible < present else ""
    return CheckResult(
        name="GPU count",
        status="pass" if visible >= needed else "fail",
        value=f"{visible}{hidden}",
        limit=f"{needed} for profile {profile.name}",
        remedy="" if visible >= needed else fitting or "Use a node or a profile with the right number of GPUs",
    )


def _mps(mps: Mps) -> CheckResult:
    return CheckResult(
        name="MPS",
        status="pass" if mps.on else "warn",
        value=str(mps),
        limit="on, so that engines on one GPU compute at the same time",
        remedy="" if mps.on else "Install or start it; without it the engines take turns on the GPU",
    )


def _cuda_version(driver: DriverReading, torch_cuda: tuple[int, int] | None) -> CheckResult:
    name = "driver CUDA version"
    if driver.cuda_version is None or torch_cuda is None:
        missing = "the driver's" if driver.cuda_version is None else "torch's"
        return CheckResult(name=name, status="skipped", value=f"{missing} CUDA version is unreadable")
    older = driver.cuda_version < torch_cuda
    # CUDA promises that programs of a newer toolkit run on an older driver of the same major version
    breaks = driver.cuda_version[0] < torch_cuda[0]
    return CheckResult(
        name=name,
        status="fail" if breaks else "warn" if older else "pass",
        value=f"{_dotted(driver.cuda_version)} (driver {driver.version})",
        limit=f"{_dotted(torch_cuda)}, what torch was built for",
        remedy="Update the NVIDIA driver, or install the torch and vLLM builds of an older CUDA" if older else "",
    )


def _not_answering(gpu: GpuReading) -> CheckResult:
    return CheckResult(
        name="answers",
        status="fail",
        value=gpu.error or "",
        limit="answers",
        remedy="Reset the GPU (nvidia-smi --gpu-reset) or reboot the node; if it stays lost, have it replaced",
        gpu=gpu.index,
    )


def _identity(profile: Profile, gpu: GpuReading, fitting: str) -> list[CheckResult]:
    expect = profile.expect
    checks = []
    if expect.gpu_name is not None:
        if gpu.name is None:
            checks.append(unreadable("model", gpu, "name"))
        else:
            alike = re.search(expect.gpu_name, gpu.name) is not None
            checks.append(_expected("model", alike, gpu.name, expect.gpu_name, fitting, gpu))
    if expect.gpu_memory_gib is not None:
        if gpu.memory_total is None:
            checks.append(unreadable("memory", gpu, "memory_total"))
        else:
            total, least = gpu.memory_total / GIB, expect.gpu_memory_gib
            checks.append(_expected("memory", total >= least, f"{total:.1f} GiB", f"{least:g} GiB", fitting, gpu))
    floors = [expect.compute_capability, BATCH_INVARIANT_CAPABILITY if profile.engine.batch_invariant else None]
    floor = max((value for value in floors if value is not None), default=None)
    if floor is not None:
        if gpu.compute_capability is None:
            checks.append(unreadable("compute capability", gpu, "compute_capability"))
        else:
            newer = gpu.compute_capability >= _capability(floor)
            found = _dotted(gpu.compute_capability)
            checks.append(_expected("compute capability", newer, found, f"{floor:.1f}", fitting, gpu))
    return checks


def _expected(name: str, holds: bool, value: str, limit: str, fitting: str, gpu: GpuReading) -> CheckResult:
    remedy = "" if holds else fitting or "Use the node that the profile was written for"
    return CheckResult(
        name=name, status="pass" if holds else "fail", value=value, limit=limit, remedy=remedy, gpu=gpu.index
    )


def _capability(value: float) -> tuple[int, int]:
    major, minor = f"{value:.1f}".split(".")
    return int(major), int(minor)


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
