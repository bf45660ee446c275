"""Emits Prefect events about generation: its start, progress and end, and failures of replicas.

The automation ``harvest-no-progress`` in infra/automations.yaml listens to the first three.
"""

import logging
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from prefect.logging import get_run_logger

from flows.reporting.flow_failures import log_last_lines
from flows.reporting.reporter import Reporter
from tasks.generation.recovery import PoolEvent

PROGRESS_SECONDS = 60.0
"""The shortest time between two progress events."""

_FAILURES = {
    "oom": "harvest.oom",
    "restarted": "harvest.replica.restarted",
    "retired": "harvest.replica.retired",
}
"""The Prefect event for each kind of pool event that is a failure."""


class GenerationEvents:
    """Emits the start, the progress and the end of generation. Use as a context manager around it."""

    def __init__(self, reporter: Reporter, run_id: str) -> None:
        self._reporter = reporter
        self._run_id = run_id
        self._done = 0
        self._due = 0.0

    def progressed(self, done: int) -> None:
        """Emit that ``done`` rollouts are finished, if more are than before and a minute has passed."""
        if done > self._done and time.monotonic() >= self._due:
            self._done, self._due = done, time.monotonic() + PROGRESS_SECONDS
            self._reporter.event("harvest.generation.progressed", self._run_id, {"rollouts": done})

    def __enter__(self) -> Self:
        self._reporter.event("harvest.generation.started", self._run_id, {})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reporter.event("harvest.generation.ended", self._run_id, {})


def report_pool_event(event: PoolEvent, run_id: str, reporter: Reporter) -> None:
    """Write a replica pool's event to the flow run's log; also emit a Prefect event if it is a failure."""
    failed = event.kind in _FAILURES
    get_run_logger().log(logging.WARNING if failed else logging.INFO, "%s: %s", event.kind, event.message)
    if failed:
        reporter.event(_FAILURES[event.kind], run_id, {"message": event.message, **event.details})
        if log_path := event.details.get("log_path"):
            log_last_lines(Path(log_path))
