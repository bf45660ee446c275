"""Measures how long a process was silent or idle.

A clock alone would take a slow process for a dead one, and also a healthy one after a pause of the whole machine.
"""

import time
from collections.abc import Callable

import psutil

LOOK_S = 5.0
"""Seconds between two looks. A later look counts as one after this time."""


class Silence:
    """Seconds since the last sign of life, as far as this process could look.

    While the machine or this process stands still, as after Ctrl-Z, nobody gives or reads signs of life. So the time
    between two calls counts ``LOOK_S`` at most.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.end()

    def end(self) -> None:
        """Begin anew: there is a sign of life now."""
        self._seconds = 0.0
        self._looked_at = self._clock()

    def seconds(self) -> float:
        """Return the length of the silence. Call it again and again."""
        now = self._clock()
        self._seconds += min(now - self._looked_at, LOOK_S)
        self._looked_at = now
        return self._seconds


class Idleness:
    """Seconds for which a process has used no processor time. A slow process uses some, a stuck one does not."""

    def __init__(self, used: Callable[[], float], clock: Callable[[], float] = time.monotonic) -> None:
        """``used`` returns the process's processor time so far, in seconds. It is called every ``LOOK_S`` at most."""
        self._used = used
        self._clock = clock
        self._silence = Silence(clock)
        self._last_used = -1.0
        self._next_look = clock() + LOOK_S

    def seconds(self) -> float:
        """Return for how long the process was idle. Call it again and again."""
        now = self._clock()
        if now >= self._next_look:
            self._next_look = now + LOOK_S
            used = self._used()
            if used > self._last_used:
                self._last_used = used
                self._silence.end()
        return self._silence.seconds()


def processor_seconds(pid: int) -> float:
    """Return the processor time that a process has used; 0 when it has ended."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)
