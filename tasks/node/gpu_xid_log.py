"""Reads the NVIDIA driver's error reports (XIDs) in the kernel log, and checks the recent ones.

A GPU that failed an hour ago may look healthy to NVML. Meanings of the numbers: NVIDIA "XID Errors" (https://docs.nvidia.com/deploy/xid-errors/).
"""

import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.node.check_result import CheckResult

KERNEL_LOG = Path("/dev/kmsg")
RECENT_S = 24 * 3600

FATAL = {
    48: "double-bit ECC error",
    62: "internal microcontroller halt",
    64: "row remapping failed",
    74: "NVLink error",
    79: "the GPU fell off the bus",
    95: "uncontained memory error",
    119: "GSP firmware timed out",
    120: "GSP firmware error",
}
SUSPECT = {
    13: "exception in a program on the GPU",
    31: "memory page fault of a program",
    63: "row remapping recorded",
    94: "contained memory error",
}

_XID = re.compile(r"NVRM: Xid \(PCI:(?P<bus>[0-9a-fA-F:.]+)\): (?P<code>\d+)")


@dataclass(frozen=True, kw_only=True)
class Xid:
    """One error report."""

    code: int
    """The XID number."""
    bus_id: str
    """The GPU's PCI bus id, as logged."""
    age_s: float
    """Seconds since the report was logged."""


def read_xids(path: Path = KERNEL_LOG, *, uptime_s: float | None = None) -> list[Xid] | None:
    """The XIDs since boot, oldest first; None when the kernel log cannot be read, as in a container or without root."""
    now = time.clock_gettime(time.CLOCK_MONOTONIC) if uptime_s is None else uptime_s
    try:
        text = _read_all(path)
    except OSError:
        return None
    xids = []
    for line in text.splitlines():
        prefix, _, message = line.partition(";")
        fields = prefix.split(",")
        match = _XID.search(message)
        if match and len(fields) >= 3 and fields[2].isdigit():
            age = now - int(fields[2]) / 1e6
            xids.append(Xid(code=int(match["code"]), bus_id=match["bus"], age_s=age))
    return xids


def check_xids(xids: Sequence[Xid] | None, bus_ids: Sequence[str | None], others: Sequence[str] = ()) -> CheckResult:
    """Check the reports of the last 24 hours for the GPUs with these PCI bus ids.

    None stands for a lost GPU, which no longer gives its bus id. Then the reports of every bus count, except those of
    ``others``.
    """
    if xids is None:
        return CheckResult(name="kernel log XIDs", status="skipped", value="the kernel log is not readable here")
    ours = {_bus(bus_id) for bus_id in bus_ids if bus_id is not None}
    theirs = {_bus(bus_id) for bus_id in others}
    recent = [
        xid
        for xid in xids
        if xid.age_s <= RECENT_S and (_bus(xid.bus_id) in ours or (None in bus_ids and _bus(xid.bus_id) not in theirs))
    ]
    known = FATAL | SUSPECT
    seen = sorted({(xid.code, _bus(xid.bus_id)) for xid in recent if xid.code in known})
    fatal = any(code in FATAL for code, _ in seen)
    remedy = ""
    if fatal:
        remedy = "Drain the node and reboot it; if the report returns, have the GPU replaced"
    elif seen:
        remedy = "Often the fault of an earlier program. If it returns with another program, reset the GPU"
    return CheckResult(
        name="kernel log XIDs",
        status="fail" if fatal else "warn" if seen else "pass",
        value="; ".join(f"{code} {known[code]} on {bus}" for code, bus in seen) or "none in 24 hours",
        limit="none in 24 hours",
        remedy=remedy,
    )


def _read_all(path: Path) -> str:
    # /dev/kmsg gives one record per read and would block for the next one
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    chunks = []
    try:
        while True:
            try:
                chunk = os.read(descriptor, 8192)
            except BlockingIOError:
                break
            except BrokenPipeError:  # the kernel overwrote the record; the next read gives the next one
                continue
            if not chunk:
                break
            chunks.append(chunk)
    finally:
        os.close(descriptor)
    return b"".join(chunks).decode("utf-8", errors="replace")


def _bus(bus_id: str) -> str:
    """``domain:bus:device`` in one form, since the log and NVML differ in padding, case and the function number."""
    parts = bus_id.split(".")[0].lower().split(":")
    return ":".join(f"{int(part, 16):x}" for part in parts)
