"""Reads the host memory that this process may use, and how many processes the kernel killed for lack of it.

A container may have far less memory than its machine: the limit of its cgroup. Both versions of cgroups are read. In a
container the path in /proc/self/cgroup may not exist below /sys/fs/cgroup; the files of the container's own group then
lie at its root.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

_ROOT = Path("/")


@dataclass(frozen=True, kw_only=True)
class CgroupMemory:
    """The memory of one cgroup."""

    limit: int
    """Bytes."""
    used: int
    """Bytes in use, without the page cache that the kernel can drop."""


def read_cgroup_memory(root: Path = _ROOT) -> list[CgroupMemory]:
    """The limit and use of every cgroup around this process that has a limit."""
    found = []
    groups = [root / "sys/fs/cgroup", root / "sys/fs/cgroup/memory"]
    for base, own in _own_cgroups(root):
        groups += [own, *(parent for parent in own.parents if base in parent.parents)]
    for group in groups:
        limit = _number(group / "memory.max") or _number(group / "memory.limit_in_bytes")
        used = _number(group / "memory.current") or _number(group / "memory.usage_in_bytes") or 0
        if limit is not None:
            found.append(CgroupMemory(limit=limit, used=max(0, used - _inactive_file(group / "memory.stat"))))
    return found


def count_oom_kills(root: Path = _ROOT) -> int:
    """Number of processes of this cgroup that the kernel killed for lack of memory.

    Where the cgroup has no count, it is the number of the whole node.
    """
    files = [own / name for _, own in _own_cgroups(root) for name in ("memory.oom_control", "memory.events")]
    for path in [*files, root / "proc/vmstat"]:
        with contextlib.suppress(OSError, ValueError, KeyError):
            counts = dict(line.split() for line in path.read_text(encoding="ascii").splitlines())
            return int(counts["oom_kill"])
    return 0


def _own_cgroups(root: Path) -> Iterator[tuple[Path, Path]]:
    """(mount, own group) of each hierarchy that counts this process's memory: v2's, or v1's memory controller."""
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers or "memory" in controllers.split(","):
                mount = root / "sys/fs/cgroup" / ("memory" if controllers else "")
                yield mount, mount / path.strip("/")


def _inactive_file(path: Path) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in path.read_text(encoding="ascii").splitlines():
            if line.startswith(("inactive_file ", "total_inactive_file ")):
                return int(line.split()[1])
    return 0


def _number(path: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text(encoding="ascii"))  # "max" is no number: no limit
    return None


@dataclass(frozen=True, kw_only=True)
class HostMemory:
    """The host memory that this process may use."""

    total: int
    """Bytes."""
    available: int
    """Bytes."""
    limited_by: str
    """"machine" or "cgroup": the one that sets ``total``."""


def read_host_memory(root: Path = Path("/")) -> HostMemory:
    """The machine's memory within the limits of the cgroups under ``root``; page cache counts as available."""
    machine = psutil.virtual_memory()
    memory = HostMemory(total=machine.total, available=machine.available, limited_by="machine")
    for cgroup in read_cgroup_memory(root):
        if cgroup.limit < memory.total:
            available = max(0, min(memory.available, cgroup.limit - cgroup.used))
            memory = HostMemory(total=cgroup.limit, available=available, limited_by="cgroup")
    return memory
