"""Reads GPUs from NVIDIA's management library (NVML), through the package nvidia-ml-py."""

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

from tasks.node.gpu_reading import DriverReading, GpuProcess, GpuReading, GpuSample, NoDriverError, RemappedRows

_T = TypeVar("_T")


class PynvmlReader:
    """Reads GPUs through ``libnvidia-ml.so.1``, which comes with the driver and is loaded at the first reading."""

    def __init__(self) -> None:
        self._library: Any = None
        self._handles: dict[int, Any] = {}

    def driver(self) -> DriverReading:
        nvml = self._nvml()
        try:
            count = int(nvml.nvmlDeviceGetCount())
        except nvml.NVMLError as error:
            raise NoDriverError(str(error)) from error
        version = _Fields(nvml).read("version", lambda: str(nvml.nvmlSystemGetDriverVersion())) or "unknown"
        cuda = _Fields(nvml).read("cuda", lambda: int(nvml.nvmlSystemGetCudaDriverVersion_v2()))
        return DriverReading(
            version=version,
            cuda_version=None if cuda is None else (cuda // 1000, cuda % 1000 // 10),
            gpu_count=count,
        )

    def gpu(self, index: int) -> GpuReading:
        nvml = self._nvml()
        try:
            handle = self._handle(index)
            name = str(nvml.nvmlDeviceGetName(handle))
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        except nvml.NVMLError as error:
            self._handles.pop(index, None)
            return GpuReading(index=index, error=str(error))
        fields = _Fields(nvml)
        temperature = fields.read("temperature_c", lambda: _temperature(nvml, handle))
        return GpuReading(
            index=index,
            name=name,
            uuid=fields.read("uuid", lambda: str(nvml.nvmlDeviceGetUUID(handle))),
            pci_bus_id=fields.read("pci_bus_id", lambda: _text(nvml.nvmlDeviceGetPciInfo(handle).busId)),
            memory_total=int(memory.total),
            memory_free=int(memory.free),
            memory_reserved=fields.read("memory_reserved", lambda: _reserved(nvml, handle)),
            compute_capability=fields.read("compute_capability", lambda: _capability(nvml, handle)),
            temperature_c=temperature,
            slowdown_c=fields.read("slowdown_c", lambda: _slowdown(nvml, handle, temperature)),
            recovery_action=fields.read("recovery_action", lambda: _recovery_action(nvml, handle)),
            remapped_rows=fields.read("remapped_rows", lambda: _remapped_rows(nvml, handle)),
            retired_pages_pending=fields.read(
                "retired_pages_pending", lambda: bool(nvml.nvmlDeviceGetRetiredPagesPendingStatus(handle))
            ),
            ecc_enabled=fields.read("ecc_enabled", lambda: bool(nvml.nvmlDeviceGetCurrentEccMode(handle))),
            uncorrected_ecc=fields.read("uncorrected_ecc", lambda: _uncorrected_ecc(nvml, handle)),
            processes=fields.read("processes", lambda: _processes(nvml, handle)),
            mig_enabled=fields.read("mig_enabled", lambda: bool(nvml.nvmlDeviceGetMigMode(handle)[0])),
            compute_mode=fields.read("compute_mode", lambda: int(nvml.nvmlDeviceGetComputeMode(handle))),
            persistence_mode=fields.read("persistence_mode", lambda: bool(nvml.nvmlDeviceGetPersistenceMode(handle))),
            nvlinks=fields.read("nvlinks", lambda: _nvlinks(nvml, handle)),
            p2p=fields.read("p2p", lambda: self._p2p(index)),
            fabric_state=fields.read("fabric_state", lambda: _fabric_state(nvml, handle)),
            pcie_width=fields.read("pcie_width", lambda: int(nvml.nvmlDeviceGetCurrPcieLinkWidth(handle))),
            pcie_max_width=fields.read("pcie_max_width", lambda: int(nvml.nvmlDeviceGetMaxPcieLinkWidth(handle))),
            unreadable=fields.unreadable,
        )

    def event_reasons(self, index: int) -> int | None:
        nvml = self._nvml()
        return _Fields(nvml).read("event_reasons", lambda: _event_reasons(nvml, self._handle(index)))

    def sample(self, index: int) -> GpuSample:
        nvml = self._nvml()
        fields = _Fields(nvml)
        power = fields.read("power", lambda: int(nvml.nvmlDeviceGetPowerUsage(self._handle(index))))
        return GpuSample(
            utilization_percent=fields.read(
                "utilization", lambda: int(nvml.nvmlDeviceGetUtilizationRates(self._handle(index)).gpu)
            ),
            memory_used=fields.read("memory", lambda: int(nvml.nvmlDeviceGetMemoryInfo(self._handle(index)).used)),
            temperature_c=fields.read("temperature", lambda: _temperature(nvml, self._handle(index))),
            power_w=None if power is None else power / 1000,
            sm_clock_mhz=fields.read(
                "clock", lambda: int(nvml.nvmlDeviceGetClockInfo(self._handle(index), nvml.NVML_CLOCK_SM))
            ),
            event_reasons=fields.read("event_reasons", lambda: _event_reasons(nvml, self._handle(index))),
        )

    def _nvml(self) -> Any:
        if self._library is None:
            try:
                import pynvml
            except ImportError as error:
                raise NoDriverError("the package nvidia-ml-py is not installed") from error
            try:
                pynvml.nvmlInit()
            except pynvml.NVMLError as error:
                raise NoDriverError(str(error)) from error
            self._library = pynvml
        return self._library

    def _handle(self, index: int) -> Any:
        if index not in self._handles:
            self._handles[index] = self._nvml().nvmlDeviceGetHandleByIndex(index)
        return self._handles[index]

    def _p2p(self, index: int) -> dict[int, int]:
        nvml = self._nvml()
        statuses = {}
        for peer in range(int(nvml.nvmlDeviceGetCount())):
            if peer != index:
                with contextlib.suppress(nvml.NVMLError):
                    statuses[peer] = int(nvml.nvmlDeviceGetP2PStatus(self._handle(index), self._handle(peer), 0))
        return statuses


class _Fields:
    """Reads values one by one, and keeps the driver's reason for each value that it refuses."""

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        self.unreadable: dict[str, str] = {}

    def read(self, name: str, get: Callable[[], _T]) -> _T | None:
        try:
            return get()
        except self._nvml.NVMLError as error:
            self.unreadable[name] = str(error)
            return None


def _reserved(nvml: Any, handle: Any) -> int:
    return int(nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2).reserved)


def _temperature(nvml: Any, handle: Any) -> int:
    try:
        return int(nvml.nvmlDeviceGetTemperatureV(handle, nvml.NVML_TEMPERATURE_GPU))
    except nvml.NVMLError:  # drivers before 565 have only the older call
        return int(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))


def _slowdown(nvml: Any, handle: Any, temperature: int | None) -> int:
    # newer GPUs give the slowdown as a distance from their limit, older GPUs as an absolute temperature
    limit = nvml.nvmlDeviceGetFieldValues(handle, [nvml.NVML_FI_DEV_TEMPERATURE_SLOWDOWN_TLIMIT])[0]
    if temperature is not None and limit.nvmlReturn == nvml.NVML_SUCCESS:
        with contextlib.suppress(nvml.NVMLError):
            margin = int(nvml.nvmlDeviceGetMarginTemperature(handle))
            return temperature + margin - int(limit.value.siVal)
    return int(nvml.nvmlDeviceGetTemperatureThreshold(handle, nvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN))


def _recovery_action(nvml: Any, handle: Any) -> int:
    value = nvml.nvmlDeviceGetFieldValues(handle, [nvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION])[0]
    if value.nvmlReturn != nvml.NVML_SUCCESS:
        raise nvml.NVMLError(value.nvmlReturn)
    return int(value.value.uiVal)


def _remapped_rows(nvml: Any, handle: Any) -> RemappedRows:
    correctable, uncorrectable, pending, failed = nvml.nvmlDeviceGetRemappedRows(handle)
    return RemappedRows(
        correctable=correctable, uncorrectable=uncorrectable, pending=bool(pending), failed=bool(failed)
    )


def _uncorrected_ecc(nvml: Any, handle: Any) -> int:
    return int(
        nvml.nvmlDeviceGetTotalEccErrors(handle, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC)
    )


def _capability(nvml: Any, handle: Any) -> tuple[int, int]:
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    return int(major), int(minor)


def _processes(nvml: Any, handle: Any) -> tuple[GpuProcess, ...]:
    return tuple(
        GpuProcess(pid=process.pid, used_bytes=process.usedGpuMemory)
        for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    )


def _nvlinks(nvml: Any, handle: Any) -> tuple[bool, ...]:
    links = []
    for link in range(nvml.NVML_NVLINK_MAX_LINKS):
        try:
            links.append(bool(nvml.nvmlDeviceGetNvLinkState(handle, link)))
        except nvml.NVMLError:
            if not links:
                raise
            break  # NVML answers "invalid argument" after the last link
    return tuple(links)


def _fabric_state(nvml: Any, handle: Any) -> int:
    info = nvml.c_nvmlGpuFabricInfoV_t()
    nvml.nvmlDeviceGetGpuFabricInfoV(handle, nvml.byref(info))
    if info.state == nvml.NVML_GPU_FABRIC_STATE_COMPLETED and info.status != nvml.NVML_SUCCESS:
        raise nvml.NVMLError(info.status)
    return int(info.state)


def _event_reasons(nvml: Any, handle: Any) -> int:
    try:
        return int(nvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
    except nvml.NVMLError:  # drivers before 535 have only the older name
        return int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
