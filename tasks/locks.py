"""Locks of a run: one process at a time works on it, and one at a time completes its upload.

Both are ``flock`` locks, which the kernel releases when the holder ends, however it ends. The package ``filelock`` does
not fit: it truncates the lock file, in which the holder is named, and has no shared mode.
"""

import contextlib
import datetime
import fcntl
import json
import logging
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from profiles.regular_files import open_regular
from tasks.errors import ConfigError, RunLocked
from tasks.files import parse_record

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2
"""How often an upload that waits for the lock tries to take it."""

_LOOKS = 5
_LOOK_SECONDS = 0.02
_HOLDER_BYTES = 4096
_HOLDER_START = b'{"pid": '


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The process that holds a lock, or held it last, as it wrote into the lock file."""

    pid: int
    host: str
    since: str
    """When it took the lock (ISO 8601, UTC)."""
    run_id: str | None = None
    """Of a lock that many runs share."""
    flow_run: str | None = None
    """Name of its Prefect flow run."""
    work: str | None = None
    """What it does with a run, if that is not to collect rollouts."""

    def __str__(self) -> str:
        run = "" if self.run_id is None else f"run {self.run_id}, "
        more = [named for named in (self.work, self.flow_run and f"flow run {self.flow_run}") if named]
        return f"{run}process {self.pid} on {self.host} since {self.since}{''.join(f', {each}' for each in more)}"


@contextlib.contextmanager
def run_lock(path: Path, **details: str) -> Iterator[None]:
    """Hold the lock at ``path``. Raises RunLocked, naming the holder, when another process has it.

    ``details`` are of the Holder: its ``flow_run``, or its ``work``. Raises ConfigError when ``path`` cannot be a lock
    file.
    """
    with open_lock_file(path) as descriptor:
        if not _lock_soon(descriptor):
            raise RunLocked(
                f"run {path.parent.parent.name} is in use by {describe_holder(descriptor)}. Wait for it or end it; "
                "then give the same command again"
            )
        if not _is_at(path, descriptor):
            raise RunLocked(f"run {path.parent.parent.name} was removed just now. Run the same command again")
        write_holder(descriptor, **details)
        yield


def find_holder(path: Path) -> tuple[Holder | None, bool]:
    """Return who holds the lock at ``path``, or held it last, if that is known, and whether it is held now.

    The kernel knows whether it is held, also by a process of another host where the file system passes locks on. A
    lock that cannot be opened counts as free.
    """
    try:
        with open_regular(path) as file:
            is_held = not _try_lock(file.fileno(), fcntl.LOCK_SH)
            return _read_holder(file.fileno()), is_held
    except OSError:
        return None, False


def what_finishes(run_dir: Path) -> str:
    """Return what finishes a run that is not finished, as the last sentence of a message: to wait, while it is used."""
    holder, is_held = find_holder(run_dir / "state" / "lock")
    if is_held:
        return f"It is in use by {holder or 'another process'}; wait for it"
    return "Run the command that made it again; it resumes"


@contextlib.contextmanager
def upload_lock(state: Path, *, exclusive: bool, wait: Callable[[float], None]) -> Iterator[None]:
    """Hold the upload lock in the run's ``state`` directory: ``exclusive``, or shared with other uploads.

    While another upload has the lock, calls ``wait`` with the seconds to wait; ``wait`` may raise to give up.
    """
    with _upload_lock(state / "upload.lock", fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH, wait):
        yield


@contextlib.contextmanager
def reservation_lock(state: Path, *, wait: Callable[[float], None]) -> Iterator[None]:
    """Hold the lock under which one upload of a run reserves its destination; ``wait`` as for ``upload_lock``."""
    with _upload_lock(state / "upload_reservation.lock", fcntl.LOCK_EX, wait):
        yield


@contextlib.contextmanager
def _upload_lock(path: Path, mode: int, wait: Callable[[float], None]) -> Iterator[None]:
    with open_lock_file(path) as descriptor:
        # a thread that blocks in flock could not be stopped, so poll
        if not _try_lock(descriptor, mode):
            logger.info("waiting for another upload of %s", path.parent.parent.name)
            wait(POLL_SECONDS)
            while not _try_lock(descriptor, mode):
                wait(POLL_SECONDS)
        yield


def write_holder(descriptor: int, **details: str) -> None:
    """Write to an open lock file that this process holds it."""
    value = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **details,
    }
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(value).encode(), 0)


def describe_holder(descriptor: int) -> str:
    """Return who holds an open lock file, such as "process 12 on node-1 since 2026-10-01T09:00:00+00:00"."""
    return str(_read_holder(descriptor) or "another process")


def _read_holder(descriptor: int) -> Holder | None:
    try:
        return parse_record(os.pread(descriptor, _HOLDER_BYTES, 0), Holder)
    except ValueError:
        return None


@contextlib.contextmanager
def open_lock_file(path: Path) -> Iterator[int]:
    """Yield the descriptor of the lock file at ``path``, which is made if needed. Raises ConfigError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    except OSError as error:
        reason = "it is a symbolic link" if path.is_symlink() else error.strerror
        raise ConfigError(
            f"the lock file {path} cannot be opened: {reason}. Remove what is there, or allow it"
        ) from None
    try:
        check_lock_file(descriptor, path)
        yield descriptor
    finally:
        os.close(descriptor)


def check_lock_file(descriptor: int, path: Path) -> None:
    """Raise ConfigError unless the open file at ``path`` is a lock file: empty, or with what ``write_holder`` writes.

    The name of a holder replaces what is in the file, which must not be somebody's data.
    """
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and found.st_size <= _HOLDER_BYTES:
        # a kill can cut the text, and a power failure can leave zeros
        text = os.pread(descriptor, _HOLDER_BYTES, 0).strip(b"\0")
        if text.startswith(_HOLDER_START) or _HOLDER_START.startswith(text):
            return
    raise ConfigError(f"{path} is to be a lock file, but is something else. It was not changed: move it away")


def _lock_soon(descriptor: int) -> bool:
    """Try for a moment: who lists runs holds each lock for an instant, to see whether it is free."""
    for _ in range(_LOOKS):
        if _try_lock(descriptor, fcntl.LOCK_EX):
            return True
        time.sleep(_LOOK_SECONDS)
    return False


def _is_at(path: Path, descriptor: int) -> bool:
    """Tell whether the open file is still at ``path``: a run may have been removed while its lock was waited for."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _try_lock(descriptor: int, mode: int) -> bool:
    try:
        fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
