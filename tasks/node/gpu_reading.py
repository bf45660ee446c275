"""Defines the records of one reading of a GPU, and the interface that reads them.

The checks work on these plain records, so that tests need no GPU. None means that the value could not be read.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


class NoDriverError(Exception):
    """No NVIDIA driver answers on this node. The message says why."""


@dataclass(frozen=True, kw_only=True)
class DriverReading:
    """The NVIDIA driver of the node."""

    version: str
    """The driver's version."""
    cuda_version: tuple[int, int] | None
    """The newest CUDA that the driver supports, as (major, minor)."""
    gpu_count: int
    """Number of GPUs of the node."""


@dataclass(frozen=True, kw_only=True)
class GpuProcess:
    """A compute process on a GPU."""

    pid: int
    """The pid on the host; inside a container it may name no process."""
    used_bytes: int | None
    """Bytes that the process holds on this GPU."""


@dataclass(frozen=True, kw_only=True)
class RemappedRows:
    """The memory rows of a GPU that spare rows replace."""

    correctable: int
    """Rows replaced after correctable errors."""
    uncorrectable: int
    """Rows replaced after uncorrectable errors."""
    pending: bool
    """Whether a replacement waits for a reset."""
    failed: bool
    """Whether a replacement found no spare row."""


@dataclass(frozen=True, kw_only=True)
class GpuReading:
    """The state of one GPU. A field is None when it could not be read."""

    index: int
    """NVML index."""
    error: str | None = None
    """Why the whole GPU does not answer; all other fields are then unset."""
    name: str | None = None
    """Product name, such as "NVIDIA H100 80GB HBM3"."""
    uuid: str | None = None
    """NVML's UUID, such as "GPU-...", which CUDA_VISIBLE_DEVICES accepts."""
    pci_bus_id: str | None = None
    """domain:bus:device.function, in hexadecimal."""
    memory_total: int | None = None
    """Bytes. What CUDA calls the total is ``memory_total - memory_reserved``."""
    memory_free: int | None = None
    """Bytes."""
    memory_reserved: int | None = None
    """Bytes that the driver keeps for itself."""
    compute_capability: tuple[int, int] | None = None
    """(major, minor)."""
    temperature_c: int | None = None
    """Degrees Celsius."""
    slowdown_c: int | None = None
    """Temperature at which the hardware starts to slow down, in degrees Celsius."""
    recovery_action: int | None = None
    """NVML's code of the action that the GPU needs; 0 is none."""
    remapped_rows: RemappedRows | None = None
    """Memory rows that spare rows replace."""
    retired_pages_pending: bool | None = None
    """Whether pages wait for a reset to be retired."""
    ecc_enabled: bool | None = None
    """Whether ECC is on now."""
    uncorrected_ecc: int | None = None
    """Uncorrected ECC errors since the last reboot."""
    processes: tuple[GpuProcess, ...] | None = None
    """Compute processes on the GPU."""
    mig_enabled: bool | None = None
    """Whether MIG splits the GPU now."""
    compute_mode: int | None = None
    """NVML's code; 0 is the default mode."""
    persistence_mode: bool | None = None
    """Whether the driver stays loaded while no process uses the GPU."""
    nvlinks: tuple[bool, ...] | None = None
    """Whether each link is up."""
    p2p: Mapping[int, int] | None = None
    """NVML's P2P read status by the peer's index; 0 is OK."""
    fabric_state: int | None = None
    """NVML's code; 0 means that the GPU has no fabric, and 3 that its registration is complete."""
    pcie_width: int | None = None
    """Lanes in use."""
    pcie_max_width: int | None = None
    """Lanes that GPU and slot support."""
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """The driver's reason, by the name of each field that could not be read."""


@dataclass(frozen=True, kw_only=True)
class GpuSample:
    """A GPU at one moment of a run. A field is None when it could not be read."""

    utilization_percent: int | None
    """Percent of the time in which a kernel ran."""
    memory_used: int | None
    """Bytes."""
    temperature_c: int | None
    """Degrees Celsius."""
    power_w: float | None
    """Watts."""
    sm_clock_mhz: int | None
    """MHz."""
    event_reasons: int | None
    """NVML's bits of the reasons for the current clocks."""


class NvmlReader(Protocol):
    """Reads GPUs. Every method raises NoDriverError when no driver answers."""

    def driver(self) -> DriverReading: ...

    def gpu(self, index: int) -> GpuReading:
        """The whole state of the GPU. Takes milliseconds."""
        ...

    def event_reasons(self, index: int) -> int | None:
        """NVML's bits of the reasons for the current clocks; None when they cannot be read."""
        ...

    def sample(self, index: int) -> GpuSample:
        """The few values that telemetry records. Cheap enough for every second."""
        ...
