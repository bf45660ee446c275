"""Waits until the driver has freed the GPU memory of killed engines, so that the next engine can use it."""

import time
from collections.abc import Collection, Sequence

from tasks.node.gpu_reading import GpuReading, NoDriverError, NvmlReader
from tasks.node.gpu_selection import read_all_gpus, visible_gpus
from tasks.node.nvml import PynvmlReader
from tasks.time_limits import time_limit

INTERVAL_SECONDS = 0.5
SETTLED_READINGS = 4
"""Memory counts as freed after this many readings without change: the driver may take a second to begin."""
SETTLED_BYTES = 64 * 2**20
"""Free memory that grows by less than this between two readings has not changed."""


def wait_for_free_memory(
    gpus: Sequence[str] | None,
    pids: Collection[int] = (),
    *,
    reader: NvmlReader | None = None,
    timeout: float = 30.0,
    interval_s: float = INTERVAL_SECONDS,
) -> None:
    """Return when the free memory of ``gpus`` no longer grows and none of ``pids`` is on them any more.

    ``gpus`` are entries of CUDA_VISIBLE_DEVICES, indices or UUIDs. ``pids`` belong to processes that have ended; the
    driver frees their memory a moment later. Returns after ``timeout`` seconds in any case, and at once without GPUs
    or without a driver.
    """
    if not gpus:
        return
    reader = reader or PynvmlReader()
    deadline = time.monotonic() + time_limit(timeout)
    try:
        indices = _indices(reader, gpus)
        before, settled = _free_bytes([reader.gpu(index) for index in indices]), 0
        while indices and settled < SETTLED_READINGS and time.monotonic() < deadline:
            time.sleep(interval_s)
            readings = [reader.gpu(index) for index in indices]
            free = _free_bytes(readings)
            is_still = free - before < SETTLED_BYTES and not _is_listed(readings, pids)
            before, settled = free, settled + 1 if is_still else 0
    except NoDriverError:
        return


def _indices(reader: NvmlReader, gpus: Sequence[str]) -> list[int]:
    uuids = [gpu.uuid for gpu in read_all_gpus(reader)]
    return visible_gpus(uuids, {"CUDA_VISIBLE_DEVICES": ",".join(gpus)})


def _free_bytes(readings: Sequence[GpuReading]) -> int:
    return sum(reading.memory_free or 0 for reading in readings)


def _is_listed(readings: Sequence[GpuReading], pids: Collection[int]) -> bool:
    return any(process.pid in pids for reading in readings for process in reading.processes or ())
