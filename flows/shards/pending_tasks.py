"""Keeps the task runs that have not ended, and calls back on the flow's main thread when one ends."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from prefect.futures import PrefectFuture

from tasks.errors import HarvestError


@dataclass(frozen=True, kw_only=True)
class _Callbacks:
    on_result: Callable[[Any], None]
    on_retryable_error: Callable[[HarvestError], None] | None


class PendingTasks:
    """Submitted task runs, and other work in threads. ``len()`` is the number whose callback has not run yet.

    ``wake`` is called, from any thread, when a task run has ended and ``run_callbacks`` has something to do.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._callbacks: dict[Any, _Callbacks] = {}
        self._done: deque[Any] = deque()

    def __len__(self) -> int:
        return len(self._callbacks)

    def add(
        self,
        future: PrefectFuture[Any] | Future[Any],
        on_result: Callable[[Any], None],
        *,
        on_retryable_error: Callable[[HarvestError], None] | None = None,
    ) -> None:
        """Have ``run_callbacks`` call ``on_result`` with the result of ``future``.

        A retryable failure goes to ``on_retryable_error`` if there is one. Every other failure ends the flow.
        """
        self._callbacks[future] = _Callbacks(on_result=on_result, on_retryable_error=on_retryable_error)
        future.add_done_callback(self._ended)

    def run_callbacks(self) -> None:
        """Run the callbacks of the task runs that have ended. Raises the first failure without a callback."""
        while self._done:
            future = self._done.popleft()
            callbacks = self._callbacks.pop(future)
            try:
                result = future.result()
            except HarvestError as error:
                if callbacks.on_retryable_error is None or not error.retryable:
                    raise
                callbacks.on_retryable_error(error)
            else:
                callbacks.on_result(result)

    def _ended(self, future: Any) -> None:
        self._done.append(future)
        self._wake()
