"""Processes, told from others with the same pid, recorded on disk, and ended with all that is under them.

Replicas die with their flow by themselves (``tasks.parent_death``); the records are for those that could not.
"""

import contextlib
import os
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from tasks.files import publish_json, read_json


@dataclass(frozen=True, kw_only=True)
class ProcessRecord:
    """A process, told from others that had the same pid by its start time (clock ticks since boot, see proc(5))."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> "ProcessRecord | None":
        started = _started(pid)
        return None if started is None else cls(pid=pid, started=started)

    def process(self) -> psutil.Process | None:
        """The live process, or None when it ended, also when another one took its pid."""
        if _started(self.pid) != self.started:
            return None
        try:
            process = psutil.Process(self.pid)
            return None if process.status() == psutil.STATUS_ZOMBIE else process
        except psutil.NoSuchProcess:
            return None


def descendants(pid: int) -> list[ProcessRecord]:
    """Live descendants of ``pid``."""
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return [record for child in children if (record := ProcessRecord.of(child.pid)) is not None]


def kill_all(records: list[ProcessRecord], timeout: float = 10.0) -> list[ProcessRecord]:
    """SIGKILL every live process of ``records`` and its descendants; return those that live on after ``timeout`` s."""
    targets = {record.pid: record for record in records if record.process() is not None}
    for record in list(targets.values()):
        targets.update({child.pid: child for child in descendants(record.pid)})
    for record in targets.values():
        with contextlib.suppress(psutil.NoSuchProcess):
            if process := record.process():
                process.kill()
    deadline = time.monotonic() + timeout
    while (alive := [record for record in targets.values() if record.process()]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return alive


def record_processes(path: Path, records: list[ProcessRecord]) -> None:
    """Publish which processes belong to a replica, which process owns them, and where their pids mean anything."""
    owner = ProcessRecord.of(os.getpid())
    publish_json(
        {"place": _place(), "owner": owner and asdict(owner), "processes": [asdict(record) for record in records]}, path
    )


def end_leftovers(runs_dir: Path) -> list[int]:
    """Kill replicas of runs in ``runs_dir`` whose owner is gone; return their pids. Touches no other process."""
    ended = []
    for path in runs_dir.glob("*/state/replica-*.pid.json"):
        value = read_json(path)
        # on a shared disk the record may be another node's, whose pids mean nothing here
        if not isinstance(value, dict) or value.get("place") != _place():
            continue
        try:
            owner = _parse(value["owner"]) if value["owner"] is not None else None
            processes = [_parse(item) for item in value["processes"]]
        except (KeyError, TypeError):
            continue
        if owner is not None and owner.process() is not None:
            continue
        live = [record for record in processes if record.process()]
        kill_all(live)
        ended += [record.pid for record in live]
        with contextlib.suppress(OSError):
            path.unlink()
    return ended


def _parse(value: Any) -> ProcessRecord:
    """The record that ``value`` is the JSON of. Raises KeyError or TypeError when it is of nothing that was written."""
    pid, started = value["pid"], value["started"]
    if type(pid) is not int or type(started) is not int:
        raise TypeError(f"pid {pid!r} and start time {started!r} must be whole numbers")
    return ProcessRecord(pid=pid, started=started)


@cache
def _place() -> str:
    """Within what a pid and a start time name one process: this boot of this machine, and this pid namespace."""
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    return f"{boot.read_text(encoding='ascii').strip()}/{namespace.readlink()}"


def _started(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        # not the seconds since the epoch that psutil gives: those move when the clock is set
        return int(stat.rpartition(")")[2].split()[19])
    except OSError:
        return None
