"""Who may change what a destination holds of a run: any number that send files, or one that says it is complete."""

import contextlib
import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

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
