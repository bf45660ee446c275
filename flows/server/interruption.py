"""Ends a command that runs a flow within seconds of Ctrl-C or SIGTERM, whatever the flow is doing.

In some places Prefect is not prepared for an interrupt: it turns the interrupt into another error, loses it, or waits
for a thread that does not end. So a separate thread notes every signal, and ends the process if the flow has not ended
some seconds later. If that thread does not run, because a library keeps the interpreter's lock, another process ends
this one. This loses no data: a run can be resumed from its files at any moment, and every process below this one ends
with it.
"""

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn, Protocol

from flows.server import deadline

GRACE_SECONDS = 7.0
"""How long a flow has for an orderly end. The whole command ends within ten seconds."""
NOTE_SECONDS = 0.1
"""The longest time from a signal until the thread has noted it."""
REPEAT_SECONDS = 3.0
"""After this time a flow that still runs gets SIGTERM again. An orderly end takes less."""
STATE_SECONDS = 2.0
"""How long a flow run whose process is being ended has to report its state to the server."""
LIMIT_SECONDS = 9.5
"""When a process whose threads do not run is killed, after a signal."""
INTERRUPTED = 130
"""Exit code, as shells have it for Ctrl-C."""

CUT_SHORT = "harvest: interrupted"
"""The last words of a command that Ctrl-C ends."""
RESUMES = f"{CUT_SHORT}; the same command resumes"
"""Those of one that goes on, when it is given again, from where it was interrupted."""


class InterruptibleFlow(Protocol):
    """The flow in this process, as an interruption sees it."""

    @property
    def is_running(self) -> bool:
        """Whether the flow's body runs, its context managers included."""

    def report_crashed(self, timeout: float) -> None:
        """Tell the Prefect server, within ``timeout`` seconds, that the flow run is over."""


_flow: InterruptibleFlow | None = None
_interruption: "Interruption | None" = None


def set_interruptible_flow(flow: InterruptibleFlow) -> None:
    """Make ``flow`` the one that a later interruption asks to end."""
    global _flow
    _flow = flow


def was_signalled() -> bool:
    """Whether a signal asked this process to end, if it watches for them."""
    return _interruption is not None and _interruption.was_signalled


class Interruption:
    """Watches for SIGINT and SIGTERM from its creation on. ``last_words`` go to stderr if the process is cut short,
    which happens ``grace_s`` seconds after the signal, or after ``limit_s`` if no thread runs. ``before_end`` is called
    before them in the first case.

    It makes SIGTERM raise KeyboardInterrupt, as Ctrl-C does. Create it once in a process, in the main thread.
    """

    def __init__(
        self,
        last_words: str,
        *,
        before_end: Callable[[], None] = lambda: None,
        grace_s: float = GRACE_SECONDS,
        limit_s: float = LIMIT_SECONDS,
    ) -> None:
        self._last_words = last_words
        self._before_end = before_end
        self._grace_s = grace_s
        self._lock = threading.Lock()
        self._signalled = threading.Event()
        self._signals, self._written = socket.socketpair()
        self._written.setblocking(False)
        # the interpreter itself writes to it, whoever handles the signal
        signal.set_wakeup_fd(self._written.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, _interrupt)
        self._killer = subprocess.Popen(
            [sys.executable, "-I", "-S", deadline.__file__, f"{os.getpid()}", f"{limit_s}", last_words],
            stdin=self._signals.fileno(),
            stdout=subprocess.DEVNULL,
            # a terminal sends Ctrl-C to the whole process group
            process_group=0,
        )
        threading.Thread(target=self._watch, name="interruption", daemon=True).start()
        global _interruption
        _interruption = self

    @property
    def was_signalled(self) -> bool:
        """Whether a signal asked this process to end."""
        return self._note() or self._signalled.wait(NOTE_SECONDS)

    def _note(self) -> bool:
        """Note the signals so far, and tell whether there was one. A busy machine may run the thread too late."""
        with self._lock:
            while not self._signalled.is_set() and select.select([self._signals], [], [], 0)[0]:
                # one that asks the process to end stays there, for the process that watches this one
                if self._signals.recv(1, socket.MSG_PEEK)[0] in deadline.SIGNALS:
                    self._signalled.set()
                else:
                    self._signals.recv(1)
        return self._signalled.is_set()

    def _watch(self) -> None:
        while not self._note():
            select.select([self._signals], [], [])
        end = time.monotonic() + self._grace_s
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(REPEAT_SECONDS, left))
            if _flow is not None and _flow.is_running:
                # while a flow runs, Prefect handles SIGTERM, even where Ctrl-C is ignored
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        if _flow is not None:
            _flow.report_crashed(STATE_SECONDS)
        self._before_end()
        sys.stderr.write(f"{self._last_words}\n")
        sys.stderr.flush()
        os._exit(INTERRUPTED)


def _interrupt(number: int, frame: Any) -> NoReturn:
    # Prefect's own handler is for flow runs that a worker started; it replaces this one while a flow runs
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt(signal.strsignal(number))
