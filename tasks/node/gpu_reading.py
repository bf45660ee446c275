"""What NVML says about one GPU, as plain records; ``None`` means that the value could not be read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


class NoDriverError(Exception):
    """No NVIDIA driver answers on this node; the text says why."""


@dataclass(frozen=True, kw_only=True)
class DriverReading:
    """The driver of the node; ``cuda_version`` is the newest CUDA that it supports, as (major, minor)."""

    version: str
    cuda_version: tuple[int, int] | None
    gpu_count: int


@dataclass(frozen=True, kw_only=True)
class GpuProcess:
    """A compute process on a GPU. NVML's pids are the host's; inside a container they may name nothing."""

    pid: int
    used_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class RemappedRows:
    """Memory rows replaced by spares, and whether a replacement waits for a reset or found no spare."""

    correctable: int
    uncorrectable: int
    pending: bool
    failed: bool


@dataclass(frozen=True, kw_only=True)
class GpuReading:
    """One GPU's state. ``error`` is set, and nothing else, when the whole GPU does not answer.

    Bytes for memory; what CUDA calls the total is ``memory_total - memory_reserved``. Degrees Celsius for
    temperatures; ``slowdown_c`` is where the hardware starts to slow down.
    ``p2p`` maps a peer's index to NVML's P2P read status, 0 being OK. ``nvlinks`` says of each link whether it is up.
    ``unreadable`` gives the driver's reason for a field that is None.
    """

    index: int
    error: str | None = None
    name: str | None = None
    uuid: str | None = None
    pci_bus_id: str | None = None
    memory_total: int | None = None
    memory_free: int | None = None
    memory_reserved: int | None = None
    compute_capability: tuple[int, int] | None = None
    temperature_c: int | None = None
    slowdown_c: int | None = None
    recovery_action: int | None = None
    remapped_rows: RemappedRows | None = None
    retired_pages_pending: bool | None = None
    ecc_enabled: bool | None = None
    uncorrected_ecc: int | None = None
    processes: tuple[GpuProcess, ...] | None = None
    mig_enabled: bool | None = None
    compute_mode: int | None = None
    persistence_mode: bool | None = None
    nvlinks: tuple[bool, ...] | None = None
    p2p: Mapping[int, int] | None = None
    fabric_state: int | None = None
    pcie_width: int | None = None
    pcie_max_width: int | None = None
    unreadable: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class GpuSample:
    """A GPU at one moment of a run: percent, bytes, degrees Celsius, watts, MHz, and NVML's event reason bits."""

    utilization_percent: int | None
    memory_used: int | None
    temperature_c: int | None
    power_w: float | None
    sm_clock_mhz: int | None
    event_reasons: int | None


class NvmlReader(Protocol):
    """Where GPU readings come from. Every method raises NoDriverError when no driver answers."""

    def driver(self) -> DriverReading: ...

    def gpu(self, index: int) -> GpuReading:
        """The whole state of the GPU; takes milliseconds."""
        ...

    def event_reasons(self, index: int) -> int | None:
        """Why the clocks are what they are: NVML's bits, or None when unreadable."""
        ...

    def sample(self, index: int) -> GpuSample:
        """The few values that telemetry records; cheap enough for every second."""
        ...
