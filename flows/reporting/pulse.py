"""Events that say that a run is generating, and that it gets on: what the automation against standstill listens to."""

import time
from types import TracebackType
from typing import Self

from flows.reporting.reporter import Reporter

PULSE_SECONDS = 60.0


class Pulse:
    """Use as a context manager around generation."""

    def __init__(self, reporter: Reporter, run_id: str) -> None:
        self._reporter = reporter
        self._run_id = run_id
        self._done = 0
        self._due = 0.0

    def tick(self, done: int) -> None:
        """``done`` rollouts are finished; told when it has grown, once a minute at most."""
        if done > self._done and time.monotonic() >= self._due:
            self._done, self._due = done, time.monotonic() + PULSE_SECONDS
            self._reporter.event("harvest.generation.progressed", self._run_id, {"rollouts": done})

    def __enter__(self) -> Self:
        self._reporter.event("harvest.generation.started", self._run_id, {})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reporter.event("harvest.generation.ended", self._run_id, {})
