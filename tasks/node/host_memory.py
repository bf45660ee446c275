"""Reads the host memory that this process may use: the machine's, or the cgroup's limit when it is lower."""

from dataclasses import dataclass
from pathlib import Path

import psutil

from tasks.node.cgroup import read_cgroup_memory


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
