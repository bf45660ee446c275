"""Task runs in flight, and what follows each: the flow's main thread submits, waits and goes on in one place."""

from collections import deque
from collections.abc import Callable
from typing import Any

from prefect.futures import PrefectFuture

from tasks.errors import HarvestError


class InFlight:
    """``wake`` is called, from any thread, when a task run has ended and ``settle`` has something to do."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._then: dict[Any, tuple[Callable[[Any], None], Callable[[HarvestError], None] | None]] = {}
        self._done: deque[Any] = deque()

    def __len__(self) -> int:
        return len(self._then)

    def watch(
        self,
        future: PrefectFuture[Any],
        follow: Callable[[Any], None],
        *,
        let_pass: Callable[[HarvestError], None] | None = None,
    ) -> None:
        """Have ``settle`` call ``follow`` with the result of ``future``, or ``let_pass`` with a failure that is worth
        another try later and need not end the flow."""
        self._then[future] = (follow, let_pass)
        future.add_done_callback(self._finished)

    def settle(self) -> None:
        """Follow up what has ended since the last call. Raises the first failure that retries did not cure."""
        while self._done:
            future = self._done.popleft()
            follow, let_pass = self._then.pop(future)
            try:
                result = future.result()
            except HarvestError as error:
                if let_pass is None or not error.retryable:
                    raise
                let_pass(error)
            else:
                follow(result)

    def _finished(self, future: Any) -> None:
        self._done.append(future)
        self._wake()
