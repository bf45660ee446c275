"""Host memory as this process may use it: the machine's, or the cgroup's limit where that is lower."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

import psutil

_ROOT = Path("/")


@dataclass(frozen=True, kw_only=True)
class HostMemory:
    """Bytes; ``limited_by`` says whose limit ``total`` is."""

    total: int
    available: int
    limited_by: str


def read_host_memory(root: Path = _ROOT) -> HostMemory:
    """Memory under ``root``'s cgroup files (v2, else v1) and the machine's own; page cache counts as available."""
    machine = psutil.virtual_memory()
    memory = HostMemory(total=machine.total, available=machine.available, limited_by="machine")
    for limit, used in _cgroup_limits(root):
        if limit < memory.total:
            available = max(0, min(memory.available, limit - used))
            memory = HostMemory(total=limit, available=available, limited_by="cgroup")
    return memory


def _cgroup_limits(root: Path) -> list[tuple[int, int]]:
    """(limit, use) in bytes of every cgroup around this process that has a limit."""
    limits = []
    for group in _cgroups(root):
        limit = _number(group / "memory.max") or _number(group / "memory.limit_in_bytes")
        used = _number(group / "memory.current") or _number(group / "memory.usage_in_bytes") or 0
        if limit is not None:
            limits.append((limit, max(0, used - _inactive_file(group / "memory.stat"))))
    return limits


def _cgroups(root: Path) -> list[Path]:
    groups = [root / "sys/fs/cgroup", root / "sys/fs/cgroup/memory"]
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            base = groups[1] if "memory" in controllers.split(",") else groups[0] if not controllers else None
            if base is not None:
                own = base / path.lstrip("/")
                groups += [own, *(parent for parent in own.parents if base in parent.parents)]
    return groups


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
