"""How the last process that collected a run ended without finishing it: ``state/end.json``.

It is written before the process lets go of the run's lock, and removed when a later one begins to generate. A process
that is killed writes nothing.
"""

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from tasks.errors import HarvestError, StorageError
from tasks.files import publish_json, try_read_record
from tasks.plain_text import one_line
from tasks.records import RunPaths

_LONGEST = 500
"""Characters of a reason."""


@dataclass(frozen=True, kw_only=True)
class RunEnd:
    """An end before the run was finished."""

    outcome: Literal["failed", "interrupted"]
    reason: str
    """On one line."""
    at: str
    """When (ISO 8601, UTC)."""


def read_end(run_dir: Path) -> RunEnd | None:
    """Return the record in ``run_dir``, or None when there is none that can be read."""
    return try_read_record(RunPaths(root=run_dir).end, RunEnd)


def record_end(run_dir: Path, error: BaseException, *, interrupted: bool = False) -> None:
    """Record that ``error`` ended the work on the run. What is no Exception interrupts, as a signal does.

    A disk that takes no record is not the failure to report, so it is ignored.
    """
    if interrupted or not isinstance(error, Exception):
        outcome, reason = "interrupted", "Ctrl-C, SIGTERM, a cancellation or a time limit ended it"
    else:
        told = str(error) if isinstance(error, HarvestError) else f"{type(error).__name__}: {error}"
        outcome, reason = "failed", one_line(told, _LONGEST)
    value = {"outcome": outcome, "reason": reason, "at": datetime.now(UTC).isoformat(timespec="microseconds")}
    with contextlib.suppress(StorageError):
        publish_json(value, RunPaths(root=run_dir).end)


def forget_end(run_dir: Path) -> None:
    """Remove the record in ``run_dir``, as the run goes on."""
    RunPaths(root=run_dir).end.unlink(missing_ok=True)
