"""What threads have to tell the user, kept until the flow's main thread passes it on."""

import threading
from collections import deque
from collections.abc import Callable
from functools import partial

from tasks.generation.recovery import PoolEvent


class PoolMessages:
    """``listener`` gets the events, ``log`` the texts. Only ``pass_on`` calls them, and all else is safe anywhere."""

    def __init__(self, listener: Callable[[PoolEvent], None], log: Callable[[str], None]) -> None:
        self._listener = listener
        self._log = log
        self._awake = threading.Event()
        self._waiting: deque[Callable[[], None]] = deque()

    def say(self, text: str) -> None:
        self._waiting.append(partial(self._log, text))
        self.wake()

    def tell(self, event: PoolEvent) -> None:
        self._waiting.append(partial(self._listener, event))
        self.wake()

    def wake(self) -> None:
        """Make ``wait`` return now."""
        self._awake.set()

    def wait(self, timeout: float) -> None:
        """Wait up to ``timeout`` seconds for something to pass on."""
        self._awake.wait(timeout)
        self._awake.clear()

    def pass_on(self) -> None:
        while self._waiting:
            self._waiting.popleft()()
