"""Keeps rungs of the OOM ladder on disk: the rung of a run, and the rung at which earlier runs finished.

A run's rung is in its ``state/oom_ladder.json``, so that it survives retries. The other is beside the runs, in
``.memory/``: a later run of the same model, profile and device begins there.
"""

import contextlib
import datetime
import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from tasks.errors import DamagedFile, MemoryKind, Phase
from tasks.files import publish_json, read_record, set_aside, try_read_record
from tasks.locks import run_lock
from tasks.node.gpu_selection import device_name
from tasks.plan.fingerprint import recorded_engine, shared_gpus
from tasks.plan.run_plan import RunPlan


def _check_time(text: str) -> str:
    datetime.datetime.fromisoformat(text)
    return text


@dataclass(frozen=True, kw_only=True)
class RungChange:
    """One step down the ladder, after memory ran out."""

    at: Annotated[str, AfterValidator(_check_time)]
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
        """Read the state at ``path``; a run without one is at rung 0. Raises DamagedFile."""
        self._path = path
        stored = read_record(path, _StateFile) or _StateFile()
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


@dataclass(frozen=True, kw_only=True)
class _SavedRung:
    rung: int
    model: str
    profile: str
    device: str


def load_rung(plan: RunPlan) -> int:
    """Return the rung at which the last run of this model, profile and device finished, or 0."""
    # a damaged file costs a few steps down the ladder, not the run
    saved = try_read_record(_path(plan), _SavedRung)
    return saved.rung if saved else 0


def check_saved_rung(plan: RunPlan) -> None:
    """Raise DamagedFile when the file of the rung that ``load_rung`` returns is damaged."""
    read_record(_path(plan), _SavedRung)


def save_rung(plan: RunPlan, rung: int) -> None:
    """Save ``rung`` for later runs, if it differs from the saved one. Without a file, the saved rung is 0."""
    if rung != load_rung(plan):
        saved = _SavedRung(rung=rung, model=plan.model.name, profile=plan.profile.name, device=device_name())
        publish_json(asdict(saved), _path(plan))


def forget_rung(plan: RunPlan, *, is_locked: bool = False) -> bool:
    """Delete the saved rung, and take the run of ``plan`` back to rung 0. Return whether either was set.

    Raises RunLocked when another process works on the run, unless this one ``is_locked`` by the caller.
    """
    path, state_path = _path(plan), plan.paths.state / "oom_ladder.json"
    was_saved = path.exists()
    if path.is_dir():
        set_aside(path)
    path.unlink(missing_ok=True)
    if not state_path.exists():
        return was_saved
    with contextlib.nullcontext() if is_locked else run_lock(plan.paths.state / "lock"):
        try:
            state = RungState(state_path)
        except DamagedFile:
            return True  # the run sets it aside and begins with the full batch
        stepped_down = state.rung > 0
        state.start_over()
    return was_saved or stepped_down


def _path(plan: RunPlan) -> Path:
    # the key has the profile's settings, not only its name: another setting makes another ladder
    key = {
        "model": plan.model.weights_digest,
        "profile": plan.profile.model_dump(mode="json", exclude={"name", "description", "replicas_per_gpu"})
        | shared_gpus(plan.profile)
        | {"engine": recorded_engine(plan.profile)},
        "rollouts_per_question": plan.rollouts_per_question,
        "device": device_name(),
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return plan.paths.root.parent / ".memory" / f"rung-{digest}.json"
