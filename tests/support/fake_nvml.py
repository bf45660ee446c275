"""A hand-written NvmlReader: recorded readings of one healthy H100, changed one field at a time."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tasks.node.gpu_reading import DriverReading, GpuReading, GpuSample, NoDriverError, RemappedRows

MIB = 1 << 20


def healthy(index: int = 0, **changes: Any) -> GpuReading:
    """An idle H100 of an eight-GPU node."""
    reading = GpuReading(
        index=index,
        name="NVIDIA H100 80GB HBM3",
        uuid=f"GPU-{index:08d}-0000",
        pci_bus_id=f"00000000:{0x10 + index:02X}:00.0",
        memory_total=81559 * MIB,
        memory_free=81008 * MIB,
        memory_reserved=551 * MIB,
        compute_capability=(9, 0),
        temperature_c=37,
        slowdown_c=89,
        recovery_action=0,
        remapped_rows=RemappedRows(correctable=0, uncorrectable=0, pending=False, failed=False),
        retired_pages_pending=False,
        ecc_enabled=True,
        uncorrected_ecc=0,
        processes=(),
        mig_enabled=False,
        compute_mode=0,
        persistence_mode=True,
        nvlinks=(True,) * 18,
        p2p={peer: 0 for peer in range(8) if peer != index},
        fabric_state=3,
        pcie_width=16,
        pcie_max_width=16,
    )
    return replace(reading, **changes)


@dataclass
class FakeReader:
    """Answers from ``gpus``; ``events`` are the event reasons of successive samples, repeated for every GPU."""

    gpus: Sequence[GpuReading] = ()
    events: Sequence[int | None] = (0x1,)
    cuda_version: tuple[int, int] | None = (13, 0)
    no_driver: str | None = None
    _asked: dict[int, int] = field(default_factory=dict)

    def driver(self) -> DriverReading:
        if self.no_driver is not None:
            raise NoDriverError(self.no_driver)
        return DriverReading(version="580.159.04", cuda_version=self.cuda_version, gpu_count=len(self.gpus))

    def gpu(self, index: int) -> GpuReading:
        return self.gpus[index]

    def event_reasons(self, index: int) -> int | None:
        turn = self._asked.get(index, 0)
        self._asked[index] = turn + 1
        return self.events[turn % len(self.events)]

    def sample(self, index: int) -> GpuSample:
        gpu = self.gpus[index]
        used = None if gpu.memory_total is None or gpu.memory_free is None else gpu.memory_total - gpu.memory_free
        return GpuSample(
            utilization_percent=95,
            memory_used=used,
            temperature_c=gpu.temperature_c,
            power_w=600.0,
            sm_clock_mhz=1980,
            event_reasons=self.events[0],
        )
