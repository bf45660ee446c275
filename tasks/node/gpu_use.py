"""Samples the use of the GPUs while other processes compute, for benchmarks of programs that do not report it."""

import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from profiles.schema import Profile
from tasks.node.gpu_reading import GpuSample, NoDriverError, NvmlReader
from tasks.node.gpu_selection import read_used_gpus
from tasks.node.nvml import PynvmlReader
from tasks.units import GIB

INTERVAL_S = 0.5


@dataclass(frozen=True, kw_only=True)
class GpuUse:
    """The use of the GPUs over a time. A field is None when there is no sample."""

    utilization_percent: float | None
    """Mean over time and GPUs."""
    max_memory_gib: float | None
    """Largest memory in use on one GPU, in GiB."""


class GpuUseSampler:
    """Samples the GPUs that ``profile`` uses, from entry to exit. On a node without a driver it samples nothing."""

    def __init__(self, profile: Profile, reader: NvmlReader | None = None, interval_s: float = INTERVAL_S) -> None:
        self._reader: NvmlReader = reader or PynvmlReader()
        self._interval_s = interval_s
        self._indices = tuple(gpu.index for gpu in read_used_gpus(profile, self._reader))
        self._samples: list[tuple[float, GpuSample]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gpu use", daemon=True)

    @property
    def gpus(self) -> tuple[int, ...]:
        """NVML indices of the sampled GPUs."""
        return self._indices

    def use_between(self, started: float, finished: float) -> GpuUse:
        """The use between two moments, both in seconds since the epoch."""
        samples = [sample for at, sample in list(self._samples) if started <= at <= finished]
        busy = [sample.utilization_percent for sample in samples if sample.utilization_percent is not None]
        memory = [sample.memory_used for sample in samples if sample.memory_used is not None]
        return GpuUse(
            utilization_percent=sum(busy) / len(busy) if busy else None,
            max_memory_gib=max(memory) / GIB if memory else None,
        )

    def __enter__(self) -> Self:
        if self._indices:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            for index in self._indices:
                try:
                    self._samples.append((time.time(), self._reader.sample(index)))
                except NoDriverError:
                    return
