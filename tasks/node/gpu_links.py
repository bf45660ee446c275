"""Checks the links of a GPU to the other GPUs of its engine and to the host: NVLink, peer-to-peer, fabric, PCIe."""

from collections.abc import Sequence

from tasks.node.check_result import CheckResult, Status
from tasks.node.gpu_health import unreadable
from tasks.node.gpu_reading import GpuReading

_FABRIC = {1: "not started", 2: "in progress", 3: "completed"}
_P2P = {
    1: "chipset not supported",
    2: "GPU not supported",
    3: "topology not supported",
    4: "disabled by a driver setting",
    5: "not supported",
    6: "unknown",
}


def link_checks(gpu: GpuReading, group: Sequence[int], *, tensor_parallel_size: int) -> list[CheckResult]:
    """The link checks of one GPU; ``group`` holds the NVML indices of its engine's GPUs."""
    return [
        _nvlink(gpu, tensor_parallel_size),
        _p2p(gpu, [peer for peer in group if peer != gpu.index]),
        _fabric(gpu, tensor_parallel_size),
        _pcie(gpu),
    ]


def _nvlink(gpu: GpuReading, tensor_parallel_size: int) -> CheckResult:
    if gpu.nvlinks is None:
        return unreadable("NVLink", gpu, "nvlinks")
    down = [link for link, up in enumerate(gpu.nvlinks) if not up]
    if len(down) == len(gpu.nvlinks) and tensor_parallel_size == 1:
        return CheckResult(name="NVLink", status="skipped", value="all links down, none needed", gpu=gpu.index)
    status: Status = "pass" if not down else "fail" if tensor_parallel_size > 1 else "warn"
    return CheckResult(
        name="NVLink",
        status=status,
        value=f"{len(gpu.nvlinks) - len(down)} of {len(gpu.nvlinks)} links up"
        + (f", down: {', '.join(map(str, down))}" if down else ""),
        limit="all up",
        remedy="Reset the GPUs or reboot the node; if links stay down, check the fabric manager and the bridge or board"
        if down
        else "",
        gpu=gpu.index,
    )


def _p2p(gpu: GpuReading, peers: Sequence[int]) -> CheckResult:
    if not peers:
        return CheckResult(name="P2P", status="skipped", value="one GPU per engine, not needed", gpu=gpu.index)
    if gpu.p2p is None or any(peer not in gpu.p2p for peer in peers):
        return unreadable("P2P", gpu, "p2p")
    bad = [f"GPU {peer}: {_P2P.get(gpu.p2p[peer], gpu.p2p[peer])}" for peer in peers if gpu.p2p[peer] != 0]
    return CheckResult(
        name="P2P",
        status="fail" if bad else "pass",
        value="; ".join(bad) or f"OK to {len(peers)} peers",
        limit="OK within the engine's GPUs",
        remedy="On bare metal, turn PCIe ACS and the IOMMU off, or use a profile with tensor_parallel_size 1"
        if bad
        else "",
        gpu=gpu.index,
    )


def _fabric(gpu: GpuReading, tensor_parallel_size: int) -> CheckResult:
    if gpu.fabric_state is None:
        return unreadable("NVLink fabric", gpu, "fabric_state")
    if gpu.fabric_state == 0:
        return CheckResult(name="NVLink fabric", status="skipped", value="no fabric on this GPU", gpu=gpu.index)
    ready = gpu.fabric_state == 3
    return CheckResult(
        name="NVLink fabric",
        status="pass" if ready else "fail" if tensor_parallel_size > 1 else "warn",
        value=_FABRIC.get(gpu.fabric_state, f"state {gpu.fabric_state}"),
        limit="completed",
        remedy=""
        if ready
        else "Start the fabric manager of the driver's version (systemctl start nvidia-fabricmanager)",
        gpu=gpu.index,
    )


def _pcie(gpu: GpuReading) -> CheckResult:
    if gpu.pcie_width is None or gpu.pcie_max_width is None:
        return unreadable("PCIe width", gpu, "pcie_width" if gpu.pcie_width is None else "pcie_max_width")
    narrow = gpu.pcie_width < gpu.pcie_max_width
    return CheckResult(
        name="PCIe width",
        status="warn" if narrow else "pass",
        value=f"x{gpu.pcie_width}",
        limit=f"x{gpu.pcie_max_width}",
        remedy="Loading and host copies are slow. Reseat the card or check the riser" if narrow else "",
        gpu=gpu.index,
    )
