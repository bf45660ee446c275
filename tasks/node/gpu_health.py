"""Checks that a GPU is healthy and not about to fail, by the rules of NVIDIA's documentation.

Sources: NVML API reference (recovery actions, clocks event reasons), NVIDIA "GPU Memory Error Management" (row
remapping: a pending or failed remap needs a reset or a replacement).
"""

from collections.abc import Sequence

from tasks.node.check_result import CheckResult, Status
from tasks.node.gpu_reading import GpuReading

NEAR_SLOWDOWN_C = 5

RECOVERY_ACTIONS = {
    1: ("GPU reset needed", "nvidia-smi --gpu-reset"),
    2: ("node reboot needed", "reboot the node"),
    3: ("NVLink peers must be drained", "stop work on the linked GPUs, then reset them"),
    4: ("drain and reset needed", "stop work on this GPU, then nvidia-smi --gpu-reset"),
    5: ("the IMEX domain must recover", "restart the IMEX service of the NVLink domain"),
    6: ("bus reset needed", "reset the GPU's PCIe bus, or reboot the node"),
    7: ("system reboot needed", "reboot the node"),
}

HW_SLOWDOWN, SW_THERMAL, HW_THERMAL, HW_POWER_BRAKE = 0x08, 0x20, 0x40, 0x80
EVENT_REASONS = {
    0x01: "idle",
    0x02: "application clocks",
    0x04: "power cap",
    HW_SLOWDOWN: "hardware slowdown",
    0x10: "sync boost",
    SW_THERMAL: "software thermal slowdown",
    HW_THERMAL: "hardware thermal slowdown",
    HW_POWER_BRAKE: "hardware power brake",
    0x100: "display clocks",
}

_COOLING = "Check the fans, the airflow and the room's temperature"
_POWER = "Check the power supplies and the node's power cap"


def health_checks(gpu: GpuReading, event_samples: Sequence[int | None]) -> list[CheckResult]:
    """Every health check of one answering GPU; ``event_samples`` are its event reasons, 200 ms apart."""
    return [
        _recovery(gpu),
        _remap(gpu),
        _retired(gpu),
        _ecc_mode(gpu),
        _ecc_errors(gpu),
        _temperature(gpu),
        _clocks(gpu, event_samples),
    ]


def describe_reasons(bits: int) -> str:
    """The names of NVML's clocks event reasons in ``bits``."""
    known = [name for bit, name in EVENT_REASONS.items() if bits & bit]
    return ", ".join(known) or "none"


def unreadable(name: str, gpu: GpuReading, field: str) -> CheckResult:
    """The result of a check when the driver does not give the value of ``field``."""
    reason = gpu.unreadable.get(field, "no answer")
    return CheckResult(name=name, status="skipped", value=f"unreadable: {reason}", gpu=gpu.index)


def _recovery(gpu: GpuReading) -> CheckResult:
    if gpu.recovery_action is None:
        return unreadable("recovery action", gpu, "recovery_action")
    if gpu.recovery_action == 0:
        return CheckResult(name="recovery action", status="pass", value="none", gpu=gpu.index)
    unknown = (f"action {gpu.recovery_action}", "see nvidia-smi -q for this GPU")
    value, remedy = RECOVERY_ACTIONS.get(gpu.recovery_action, unknown)
    return CheckResult(
        name="recovery action", status="fail", value=value, limit="none", remedy=f"Do: {remedy}", gpu=gpu.index
    )


def _remap(gpu: GpuReading) -> CheckResult:
    rows = gpu.remapped_rows
    if rows is None:
        return unreadable("row remapping", gpu, "remapped_rows")
    status: Status = "pass"
    remedy = ""
    state = f"{rows.uncorrectable} uncorrectable, {rows.correctable} correctable"
    if rows.failed:
        status, state = "fail", f"a remap failed ({state})"
        remedy = "The GPU's memory has no spare row left. Take the GPU out of service and have it replaced"
    elif rows.pending:
        status, state = "fail", f"a remap is pending ({state})"
        remedy = "Reset the GPU (nvidia-smi --gpu-reset) or reboot the node, so that the bad row is replaced"
    return CheckResult(
        name="row remapping", status=status, value=state, limit="none pending or failed", remedy=remedy, gpu=gpu.index
    )


def _retired(gpu: GpuReading) -> CheckResult:
    if gpu.retired_pages_pending is None:
        return unreadable("retired pages", gpu, "retired_pages_pending")
    if gpu.retired_pages_pending:
        remedy = "Reset the GPU (nvidia-smi --gpu-reset) or reboot the node, so that the bad pages are retired"
        return CheckResult(
            name="retired pages", status="fail", value="pending", limit="none pending", remedy=remedy, gpu=gpu.index
        )
    return CheckResult(name="retired pages", status="pass", value="none pending", gpu=gpu.index)


def _ecc_mode(gpu: GpuReading) -> CheckResult:
    if gpu.ecc_enabled is None:
        return unreadable("ECC", gpu, "ecc_enabled")
    if not gpu.ecc_enabled:
        remedy = "Memory errors are not detected. Run nvidia-smi --ecc-config=1, then reboot the node"
        return CheckResult(name="ECC", status="warn", value="off", limit="on", remedy=remedy, gpu=gpu.index)
    return CheckResult(name="ECC", status="pass", value="on", gpu=gpu.index)


def _ecc_errors(gpu: GpuReading) -> CheckResult:
    if gpu.uncorrected_ecc is None:
        return unreadable("uncorrected ECC errors", gpu, "uncorrected_ecc")
    return CheckResult(
        name="uncorrected ECC errors",
        status="fail" if gpu.uncorrected_ecc else "pass",
        value=f"{gpu.uncorrected_ecc} since the last reboot",
        limit="0",
        remedy="Reset the GPU (nvidia-smi --gpu-reset); if the errors return, have it replaced"
        if gpu.uncorrected_ecc
        else "",
        gpu=gpu.index,
    )


def _temperature(gpu: GpuReading) -> CheckResult:
    if gpu.temperature_c is None:
        return unreadable("temperature", gpu, "temperature_c")
    if gpu.slowdown_c is None:
        return unreadable("temperature", gpu, "slowdown_c")
    headroom = gpu.slowdown_c - gpu.temperature_c
    status: Status = "fail" if headroom <= 0 else "warn" if headroom <= NEAR_SLOWDOWN_C else "pass"
    return CheckResult(
        name="temperature",
        status=status,
        value=f"{gpu.temperature_c} C",
        limit=f"{gpu.slowdown_c} C, the device's slowdown",
        remedy="" if status == "pass" else _COOLING,
        gpu=gpu.index,
    )


def _clocks(gpu: GpuReading, samples: Sequence[int | None]) -> CheckResult:
    read = [bits for bits in samples if bits is not None]
    if not read or len(read) < len(samples):
        return CheckResult(name="clocks", status="skipped", value="unreadable event reasons", gpu=gpu.index)
    always = read[0]
    ever = 0
    for bits in read:
        always &= bits
        ever |= bits
    status: Status = "pass"
    remedy = ""
    if always & (HW_THERMAL | HW_POWER_BRAKE):
        status, remedy = "fail", _COOLING if always & HW_THERMAL else _POWER
    elif ever & (HW_THERMAL | SW_THERMAL):
        status, remedy = "warn", _COOLING
    elif ever & (HW_POWER_BRAKE | HW_SLOWDOWN):
        status, remedy = "warn", _POWER
    return CheckResult(
        name="clocks",
        status=status,
        value=describe_reasons(always if status == "fail" else ever),
        limit="no thermal or power-brake slowdown",
        remedy=remedy,
        gpu=gpu.index,
    )
