"""Tells a process that waits for ever from one that is slow: the slow one uses processor time, however little."""

import time
from collections.abc import Callable

import psutil

LOOK_S = 5.0
"""Time between two looks at a process."""


class Idleness:
    """Counts the looks at which a process had used no processor time since the look before.

    A look counts ``LOOK_S`` at most, however late it is. So time in which the whole machine, or this process, stood
    still is not held against the process that is watched.
    """

    def __init__(self, used: Callable[[], float], clock: Callable[[], float] = time.monotonic) -> None:
        """``used`` returns the process's processor time so far, in seconds. The first look is the first to call it."""
        self._used = used
        self._clock = clock
        self._last_used = -1.0
        self._next_look = clock() + LOOK_S
        self._seconds = 0.0

    def seconds(self) -> float:
        """Return for how long the process has used no processor time. Call it often: it looks when a look is due."""
        now = self._clock()
        if now >= self._next_look:
            used = self._used()
            self._seconds = 0.0 if used > self._last_used else self._seconds + LOOK_S
            self._last_used = used
            self._next_look = now + LOOK_S
        return self._seconds


def processor_seconds(pid: int) -> float:
    """Return the processor time that a process has used; 0 when it has ended."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)
