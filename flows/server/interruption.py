"""Ctrl-C and SIGTERM of a command that runs a flow itself: it ends in seconds, wherever they met the flow.

An interrupt can meet Prefect where it is not prepared for one: it then becomes another error, or is lost, or the flow
waits for a thread that does not end. So what was asked is noted where nothing can lose it, and whatever the flow is
still about some seconds later is cut short. That costs nothing but the flow run's last words: what is on disk is
resumable at any moment, and every process under this one ends with it.
"""

import os
import signal
import sys
import threading
import time
from typing import Any, NoReturn

GRACE_SECONDS = 7.0
"""What a flow has to end in order, of the ten seconds in which a command ends."""
NOTE_SECONDS = 0.1
"""Within this time of a signal it is noted."""
AGAIN_SECONDS = 3.0
"""After which a flow that is still under way is asked again: longer than an orderly end takes."""
STATE_SECONDS = 2.0
"""What a flow run that is cut short has to tell the server so."""
INTERRUPTED = 130
"""Exit code, as shells have it for Ctrl-C."""

RESUMES = "harvest: interrupted; the same command resumes"
"""Last words of a command that does."""

_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM})


class Interruption:
    """Watches for SIGINT and SIGTERM from its creation on; ``last_words`` are said by a command that is cut short.

    SIGTERM is made to interrupt as Ctrl-C does. To be created in the main thread, once in a process.
    """

    def __init__(self, last_words: str) -> None:
        self._last_words = last_words
        self._asked = threading.Event()
        self._pipe, noted = os.pipe()
        os.set_blocking(noted, False)
        # written by the interpreter itself, whoever handles the signal
        signal.set_wakeup_fd(noted, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, _interrupt)
        threading.Thread(target=self._watch, name="interruption", daemon=True).start()

    @property
    def was_asked(self) -> bool:
        """Whether a signal asked this process to end."""
        return self._asked.wait(NOTE_SECONDS)

    def _watch(self) -> None:
        while not _SIGNALS.intersection(os.read(self._pipe, 1)):
            pass
        self._asked.set()
        deadline = time.monotonic() + GRACE_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(AGAIN_SECONDS, left))
            ending = sys.modules.get("flows.reporting.ending")
            if ending is not None and ending.goes_on():
                # in a flow, Prefect's handler is there for it, also where Ctrl-C is ignored
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        if (ending := sys.modules.get("flows.reporting.ending")) is not None:
            ending.say_crashed(STATE_SECONDS)
        sys.stderr.write(f"{self._last_words}\n")
        sys.stderr.flush()
        os._exit(INTERRUPTED)


def _interrupt(number: int, frame: Any) -> NoReturn:
    # Prefect's own handler is for flow runs that a worker started, and while a flow runs it stands before this one
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt(signal.strsignal(number))
