"""Watches vLLM's engine cores in processes of their own: vLLM says little of one that ends, and may wait for it."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import active_children
from multiprocessing.process import BaseProcess

ENGINE_REPORT_SECONDS = 1.0
"""How long the engine has to raise its own exception, after its core has ended."""
_CORE_NAME = "EngineCore"
"""What the names of vLLM's engine cores begin with."""


class EngineWatch:
    """Ends this process soon after an engine core that it started has ended. A thread watches."""

    def __init__(self) -> None:
        self._cores: set[BaseProcess] = set()
        self._is_over = threading.Event()
        self._look()
        threading.Thread(target=self._watch, daemon=True).start()

    @contextlib.contextmanager
    def telling(self) -> Iterator[None]:
        """Log how an engine core has ended before an exception passes: vLLM's own says only that the core is dead."""
        try:
            yield
        except BaseException:
            self._tell()
            raise

    def end(self) -> None:
        """Stop to watch, as the work is done. Its cores end now, which may take longer than the watch would wait."""
        self._is_over.set()

    def _look(self) -> None:
        self._cores.update(child for child in active_children() if child.name.startswith(_CORE_NAME))

    def _tell(self) -> None:
        for core in tuple(self._cores):
            if (code := core.exitcode) is not None:
                how = f"signal {-code}" if code < 0 else f"exit code {code}"
                with contextlib.suppress(OSError):
                    sys.stderr.write(f"engine process {core.name} ended by {how}; this process ends with it\n")
                return

    def _watch(self) -> None:
        while all(core.exitcode is None for core in self._cores):
            # a core that ends before it was seen leaves nothing to tell
            time.sleep(0.5 if self._cores else 0.05)
            self._look()
        if not self._is_over.wait(ENGINE_REPORT_SECONDS):
            self._tell()
            exit_now(1)


def exit_now(code: int) -> None:
    """End this process without an interpreter shutdown, which can wait for engine threads; its exit frees memory."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
