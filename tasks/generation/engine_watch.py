"""Ends a process whose engine has lost a process of its own, such as vLLM's engine core, which vLLM would wait for."""

import contextlib
import os
import sys
import threading
import time
from typing import Protocol

ENGINE_REPORT_SECONDS = 1.0
"""How long the engine has to raise its own exception in a step, after one of its processes has ended."""


class Watched(Protocol):
    """An engine that knows its own processes."""

    def ended_process(self) -> str | None: ...


def exit_with_engine(engine: Watched) -> None:
    """End this process soon after one of the engine's has ended. Returns at once; a thread watches."""
    threading.Thread(target=_watch, args=(engine,), daemon=True).start()


def tell_ended_process(engine: Watched) -> bool:
    """Write to the log how an engine process ended, from which the parent tells why. Return whether one has."""
    if (ended := engine.ended_process()) is None:
        return False
    with contextlib.suppress(OSError):
        sys.stderr.write(f"engine process {ended}; the replica ends with it\n")
    return True


def exit_now(code: int) -> None:
    """End this process without an interpreter shutdown, which can wait for engine threads; its exit frees memory."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _watch(engine: Watched) -> None:
    while engine.ended_process() is None:
        time.sleep(0.5)
    time.sleep(ENGINE_REPORT_SECONDS)
    tell_ended_process(engine)
    exit_now(1)
