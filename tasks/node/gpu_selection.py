"""Selects the GPUs that a run and each of its replicas use, from CUDA_VISIBLE_DEVICES and the profile."""

import os
import platform
from collections.abc import Mapping, Sequence

from profiles.engine_settings import parallel_words
from profiles.schema import Profile
from tasks.errors import ConfigError
from tasks.node.gpu_reading import GpuReading, NoDriverError, NvmlReader
from tasks.node.nvml import PynvmlReader
from tasks.plan.run_plan import RunPlan
from tasks.units import GIB


def read_all_gpus(reader: NvmlReader) -> list[GpuReading]:
    """A reading of every GPU of the node, in NVML's order. Raises NoDriverError."""
    return [reader.gpu(index) for index in range(reader.driver().gpu_count)]


def device_name() -> str:
    """The names of this node's GPUs, joined by commas; the machine's architecture on a node without GPUs or driver."""
    try:
        names = sorted({gpu.name or "unknown" for gpu in read_all_gpus(PynvmlReader())})
        return ", ".join(names) or platform.machine()
    except NoDriverError:
        return platform.machine()


def device_of(profile: Profile) -> str:
    """What the engines of ``profile`` run on here: the names of this node's GPUs, or the machine's architecture."""
    return platform.machine() if profile.expect.device == "cpu" else device_name()


def read_used_gpus(profile: Profile, reader: NvmlReader) -> list[GpuReading]:
    """A reading of every GPU that ``profile`` uses; empty for a CPU profile and on a node without a driver."""
    if profile.expect.device == "cpu":
        return []
    try:
        return used_gpus(profile, read_all_gpus(reader))
    except NoDriverError:
        return []


def used_gpus(profile: Profile, present: Sequence[GpuReading]) -> list[GpuReading]:
    """The GPUs of ``present`` that ``profile`` uses: the first ones that CUDA_VISIBLE_DEVICES shows."""
    return [present[index] for index in visible_gpus([gpu.uuid for gpu in present])[: gpus_needed(profile)]]


def gpus_needed(profile: Profile) -> int:
    """Number of GPUs that ``profile`` uses."""
    return max(profile.expect.gpu_count, profile.gpus)


def smallest_gpu(gpus: Sequence[GpuReading]) -> GpuReading | None:
    """The GPU with the least memory, and of equal ones with the least free memory, since it limits the engine.

    None when no GPU's memory is known.
    """
    known = [gpu for gpu in gpus if gpu.memory_total is not None]
    return min(known, key=lambda gpu: (gpu.memory_total or 0, gpu.memory_free or 0), default=None)


def read_gpu_bytes(profile: Profile, reader: NvmlReader) -> int | None:
    """Total memory, as CUDA counts it, of the smallest GPU that ``profile`` uses; else what the profile expects."""
    smallest = smallest_gpu(read_used_gpus(profile, reader))
    if smallest is not None and smallest.memory_total is not None:
        return smallest.memory_total - (smallest.memory_reserved or 0)
    expected = profile.expect.gpu_memory_gib
    return None if expected is None else int(expected * GIB)


def visible_gpus(uuids: Sequence[str | None], environment: Mapping[str, str] = os.environ) -> list[int]:
    """NVML indices of the GPUs that CUDA shows to a process, in CUDA's order.

    ``uuids`` has one entry per GPU of the node. Follows CUDA's rule for CUDA_VISIBLE_DEVICES: each entry is an index or
    a UUID prefix, and the first entry that names no GPU ends the list. On a node with different GPUs CUDA's indices
    agree with NVML's only under CUDA_DEVICE_ORDER=PCI_BUS_ID. Raises ConfigError for a GPU that is named twice: CUDA
    then shows none at all.
    """
    setting = environment.get("CUDA_VISIBLE_DEVICES")
    if setting is None:
        return list(range(len(uuids)))
    chosen: list[int] = []
    for entry in (part.strip() for part in setting.split(",")):
        if entry.isdecimal() and int(entry) < len(uuids):
            matches = [int(entry)]
        else:
            matches = [
                i for i, uuid in enumerate(uuids) if entry.startswith("GPU-") and uuid and uuid.startswith(entry)
            ]
        if len(matches) != 1:
            break
        if matches[0] in chosen:
            raise _named_twice(f"GPU {matches[0]}", setting)
        chosen += matches
    return chosen


def first_visible_gpu(reader: NvmlReader, environment: Mapping[str, str] = os.environ) -> str | None:
    """The GPU that a process uses by default, named as in CUDA_VISIBLE_DEVICES; None where CUDA shows none."""
    try:
        uuids = [gpu.uuid for gpu in read_all_gpus(reader)]
    except NoDriverError:
        return None
    return (
        environment.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip() if visible_gpus(uuids, environment) else None
    )


def gpus_per_replica(plan: RunPlan, visible: str | None) -> list[list[str] | None]:
    """The GPUs of each replica, named as in CUDA_VISIBLE_DEVICES; None for each replica of a CPU profile.

    Replicas that share a GPU follow each other. ``visible`` is the value of CUDA_VISIBLE_DEVICES, or None when it is
    not set. Raises ConfigError when it names too few GPUs, or one twice.
    """
    profile, needed = plan.profile, plan.profile.gpus
    replicas, width, sharing = profile.replicas, profile.engine.gpus_per_node, profile.replicas_per_gpu
    if profile.expect.device == "cpu":
        return [None] * replicas
    devices = [str(index) for index in range(needed)]
    if visible is not None:
        devices = [device for part in visible.split(",") if (device := part.strip())]
        if repeated := next((device for device in devices if devices.count(device) > 1), None):
            raise _named_twice(repeated, visible)
    if len(devices) < needed:
        each = parallel_words(profile.engine) if sharing == 1 else f"1 GPU, {sharing} on each"
        raise ConfigError(
            f"profile {profile.name} needs {needed} GPUs ({replicas} replicas x {each}), but CUDA_VISIBLE_DEVICES "
            f"names {len(devices)}: {visible!r}. Name more, or take another profile"
        )
    firsts = [index // sharing * width for index in range(replicas)]
    return [devices[first : first + width] for first in firsts]


def gpus_of_run(plan: RunPlan) -> list[str]:
    """The GPUs of all replicas of ``plan``, each once, named as in CUDA_VISIBLE_DEVICES. Raises ConfigError."""
    per_replica = gpus_per_replica(plan, os.environ.get("CUDA_VISIBLE_DEVICES"))
    return list(dict.fromkeys(gpu for gpus in per_replica if gpus for gpu in gpus))


def _named_twice(gpu: str, visible: str) -> ConfigError:
    return ConfigError(f"CUDA_VISIBLE_DEVICES is {visible!r} and names {gpu} twice. Name each GPU once")
