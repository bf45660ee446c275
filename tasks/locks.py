"""One process at a time works on a run: a ``flock`` that the kernel drops with its holder, however that ends."""

import contextlib
import datetime
import fcntl
import json
import logging
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from tasks.errors import RunLocked


@contextlib.contextmanager
def run_lock(path: Path) -> Iterator[None]:
    """Hold the lock at ``path``. Raises RunLocked, naming the holder, when another process has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunLocked(
                f"run {path.parent.parent.name} is in use by {describe_holder(descriptor)}. Wait for it or end it; "
                "then run the same command, which resumes"
            ) from None
        write_holder(descriptor)
        yield
    finally:
        os.close(descriptor)


def write_holder(descriptor: int, **details: str) -> None:
    """Say in a lock file that this process holds it."""
    value = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **details,
    }
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(value).encode(), 0)


def describe_holder(descriptor: int) -> str:
    """Who holds a lock file, in words."""
    try:
        value = json.loads(os.pread(descriptor, 4096, 0))
        run = f"run {value['run_id']}, " if "run_id" in value else ""
        return f"{run}process {value['pid']} on {value['host']} since {value['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"


# MERGED from @upload_lock: Who may change what a destination holds of a run: any number that send
# files, or one that says it is complete.
logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2


@contextlib.contextmanager
def upload_lock(state: Path, *, alone: bool, pause: Callable[[float], None]) -> Iterator[None]:
    """Hold the lock of uploads in the run's ``state`` directory, ``alone`` or beside others that do not ask for that.

    While others are in the way it calls ``pause`` with seconds to wait, which may raise to give up.
    """
    state.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(state / "upload.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    told = False
    try:
        while True:
            # a blocking flock in a thread could not be given up
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
                break
            if not told:
                logger.info("waiting for another upload of %s", state.parent.name)
                told = True
            pause(POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)
