"""Task runs in flight, and what follows each: the flow's main thread submits, waits and goes on in one place."""

from collections import deque
from collections.abc import Callable
from typing import Any

from prefect.futures import PrefectFuture


class InFlight:
    """``wake`` is called, from any thread, when a task run has ended and ``settle`` has something to do."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._then: dict[Any, Callable[[Any], None]] = {}
        self._done: deque[Any] = deque()

    def __len__(self) -> int:
        return len(self._then)

    def watch(self, future: PrefectFuture[Any], follow: Callable[[Any], None]) -> None:
        """Have ``settle`` call ``follow`` with the result of ``future``."""
        self._then[future] = follow
        future.add_done_callback(self._finished)

    def settle(self) -> None:
        """Follow up what has ended since the last call. Raises the first failure that retries did not cure."""
        while self._done:
            future = self._done.popleft()
            follow = self._then.pop(future)
            follow(future.result())

    def _finished(self, future: Any) -> None:
        self._done.append(future)
        self._wake()
