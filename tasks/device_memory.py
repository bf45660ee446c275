"""Waiting until a killed engine's GPU memory is really free again, before the next one asks for it."""

import time
from collections.abc import Sequence

from tasks.gpu_reading import NoDriverError, NvmlReader
from tasks.nvml import PynvmlReader

SETTLE_SECONDS = 0.5
SETTLED_BYTES = 64 * 2**20


def wait_for_free_memory(
    gpus: Sequence[str] | None, timeout: float = 30.0, *, reader: NvmlReader | None = None
) -> None:
    """Return when the free memory of ``gpus`` (indices) has stopped rising, or after ``timeout`` seconds.

    The driver frees a dead process's memory a moment after its exit. Does nothing where there is no GPU.
    """
    indices = [int(gpu) for gpu in gpus or () if gpu.isdigit()]
    if not indices:
        return
    reader = reader or PynvmlReader()
    deadline = time.monotonic() + timeout
    free = _free_memory(reader, indices)
    while free is not None and time.monotonic() < deadline:
        time.sleep(SETTLE_SECONDS)
        before, free = free, _free_memory(reader, indices)
        if free is None or free - before < SETTLED_BYTES:
            return


def _free_memory(reader: NvmlReader, indices: list[int]) -> int | None:
    try:
        readings = [reader.gpu(index).memory_free for index in indices]
    except NoDriverError:
        return None
    known = [free for free in readings if free is not None]
    return sum(known) if len(known) == len(readings) else None
