"""The rung of the OOM ladder that a run is on, kept in its ``state/oom_ladder.json``."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.errors import MemoryKind, Phase
from tasks.files import publish_json, try_read_record


@dataclass(frozen=True, kw_only=True)
class RungChange:
    """One step down the ladder, after memory ran out."""

    at: str
    """UTC, ISO 8601."""
    from_rung: int
    to_rung: int
    kind: MemoryKind
    """Which memory ran out."""
    phase: Phase
    reason: str
    settings: dict[str, Any]
    """``Rung.describe()`` of the new rung."""
    node: str | None = None
    """The node's name, in a run of several nodes."""


@dataclass(frozen=True, kw_only=True)
class _StateFile:
    rung: int = 0
    changes: tuple[RungChange, ...] = ()


class RungState:
    """The run's rung and the steps that led there. They are on disk, so they survive retries and interruptions."""

    def __init__(self, path: Path) -> None:
        """Read the state at ``path``; a run without one, or with a damaged one, is at rung 0."""
        self._path = path
        stored = try_read_record(path, _StateFile) or _StateFile()
        self.rung = stored.rung
        self.changes = list(stored.changes)

    def begin_at(self, rung: int) -> None:
        """Start a fresh run at ``rung``; a run that already has a state keeps its own rung."""
        if rung and not self._path.exists():
            self.rung = rung
            self._publish()

    def start_over(self) -> None:
        """Go back to the full batch; the record of earlier steps stays."""
        if self.rung:
            self.rung = 0
            self._publish()

    def step_down(self, change: RungChange) -> None:
        self.rung = change.to_rung
        self.changes.append(change)
        self._publish()

    def add_changes(self, changes: Iterable[RungChange]) -> None:
        """Add the steps that other nodes took to the record, each once; the rung stays."""
        known = {(change.at, change.node, change.to_rung) for change in self.changes}
        if new := [change for change in changes if (change.at, change.node, change.to_rung) not in known]:
            self.changes += new
            self._publish()

    def _publish(self) -> None:
        publish_json({"rung": self.rung, "changes": [asdict(change) for change in self.changes]}, self._path)
