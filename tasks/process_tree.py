"""Kill processes with their descendants, and record on disk which processes belong to a replica.

Replicas normally die with their flow (``tasks.parent_death``). The records find those that did not.
"""

import contextlib
import os
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import psutil

from tasks.files import publish_json, try_read_record
from tasks.time_limits import time_limit

TRACKER_SECONDS = 5.0
"""How long a resource tracker has to give back what killed processes left."""


@dataclass(frozen=True, kw_only=True)
class ProcessRecord:
    """A process. Its start time distinguishes it from other processes that had the same pid."""

    pid: int
    started: int
    """In clock ticks since boot, see proc(5)."""

    @classmethod
    def of(cls, pid: int) -> "ProcessRecord | None":
        """Return the record of the process that has this pid now, or None when there is none."""
        started = _started(pid)
        return None if started is None else cls(pid=pid, started=started)

    def process(self) -> psutil.Process | None:
        """Return the process, or None when it has ended, also when another process has its pid now."""
        if _started(self.pid) != self.started:
            return None
        try:
            process = psutil.Process(self.pid)
            return None if process.status() == psutil.STATUS_ZOMBIE else process
        except psutil.NoSuchProcess:
            return None


@dataclass(frozen=True, kw_only=True)
class ReplicaProcesses:
    """The contents of a replica's ``replica-N.pid.json``."""

    place: str
    """The boot and pid namespace in which the pids are valid."""
    owner: ProcessRecord | None
    """The process that started the replica."""
    processes: tuple[ProcessRecord, ...]
    """The replica and its engine's processes."""


def descendants(pid: int) -> list[ProcessRecord]:
    """Return the live descendants of ``pid``."""
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return [record for child in children if (record := ProcessRecord.of(child.pid)) is not None]


def kill_all(records: list[ProcessRecord], timeout: float = 30.0) -> list[ProcessRecord]:
    """Send SIGKILL to the processes and their descendants; return those still alive after ``timeout`` seconds.

    Python's resource trackers end by themselves when the last process that uses them has ended: only then is the shared
    memory of the killed ones given back. So one has ``TRACKER_SECONDS`` before it is killed, and one whose user is the
    calling process is left alone.
    """
    targets = {record.pid: record for record in records if record.process() is not None}
    for record in list(targets.values()):
        targets.update({child.pid: child for child in descendants(record.pid)})
    trackers = {pid: record for pid, record in targets.items() if _is_tracker(record)}
    killed = [record for pid, record in targets.items() if pid not in trackers]
    _kill(killed)
    left = _await_end(killed, timeout)
    ending = [record for record in trackers.values() if _parent(record) != os.getpid()]
    _kill(_await_end(ending, TRACKER_SECONDS))
    return left + _await_end(ending, timeout)


def _kill(records: list[ProcessRecord]) -> None:
    for record in records:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process := record.process():
                process.kill()


def _await_end(records: list[ProcessRecord], timeout: float) -> list[ProcessRecord]:
    """Return those of ``records`` that are still alive after ``timeout`` seconds."""
    deadline = time.monotonic() + time_limit(timeout)
    while (alive := [record for record in records if record.process()]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return alive


def _is_tracker(record: ProcessRecord) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        if process := record.process():
            return any("multiprocessing.resource_tracker" in word for word in process.cmdline())
    return False


def _parent(record: ProcessRecord) -> int | None:
    with contextlib.suppress(psutil.NoSuchProcess):
        if process := record.process():
            return process.ppid()
    return None


def record_processes(path: Path, records: list[ProcessRecord]) -> None:
    """Publish a file that says that these processes belong to a replica of this process."""
    owner = ProcessRecord.of(os.getpid())
    publish_json(asdict(ReplicaProcesses(place=_place(), owner=owner, processes=tuple(records))), path)


def end_leftovers(runs_dir: Path) -> list[int]:
    """Kill the replicas of runs in ``runs_dir`` whose owner has ended; return their pids. Touches no other process."""
    ended = []
    for path in runs_dir.glob("*/state/replica-*.pid.json"):
        replica = try_read_record(path, ReplicaProcesses)
        # on a shared disk the file may be another node's, whose pids mean nothing here
        if replica is None or replica.place != _place():
            continue
        if replica.owner is not None and replica.owner.process() is not None:
            continue
        live = [record for record in replica.processes if record.process()]
        kill_all(live)
        ended += [record.pid for record in live]
        with contextlib.suppress(OSError):
            path.unlink()
    return ended


@cache
def _place() -> str:
    """Return an id of this boot and this pid namespace: only within them do a pid and a start time name one process."""
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    return f"{boot.read_text(encoding='ascii').strip()}/{namespace.readlink()}"


def _started(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        # psutil gives seconds since the epoch, which change when the clock is set
        return int(stat.rpartition(")")[2].split()[19])
    except OSError:
        return None
