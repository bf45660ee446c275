"""Records the time and the counters of each generation session, in the run's ``state/generation.json``.

A run that is interrupted and resumed has several sessions.
"""

import datetime
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.files import publish_json, read_record
from tasks.node.engine_caches import StartKind

_LATER = ("mps", "shared_with", "device")


@dataclass(frozen=True, kw_only=True)
class GenerationSession:
    """One uninterrupted stretch of generation. With several nodes the counters are sums over ``nodes``."""

    started_at: str
    """When the first rollout was admitted, in UTC, ISO 8601."""
    seconds: float
    """Time from the first admitted to the last finished rollout; with several nodes, over all of them."""
    start_seconds: float
    """Time of engine starts, summed over all replicas."""
    tokens: int
    rollouts: int
    restarts: int
    """Engine failures after which a replica started again."""
    replicas: int
    gpus: int
    mps: str | None = None
    """Whether engines that shared a GPU used MPS, and why; None when none shared one."""
    start_kind: StartKind | None = None
    """Cold if one of the engines started so; None in a run of an earlier version."""
    shared_with: tuple[str, ...] = ()
    """Ids of other runs that the same engines served meanwhile. What is counted here is this run's own, except engine
    starts and restarts."""
    nodes: tuple[dict[str, Any], ...] = ()
    """What each node did; empty for a run on one node."""
    device: str | None = None
    """The GPUs by name, or the machine's architecture; None on several nodes and in a run of an earlier version."""

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values. Those of _LATER came later, and are left out where empty."""
        return {name: value for name, value in asdict(self).items() if name not in _LATER or value}


def start_of_one(sessions: Sequence[GenerationSession]) -> float:
    """Return the mean time in which one engine started, in seconds."""
    starts = sum(session.replicas + session.restarts for session in sessions)
    return sum(session.start_seconds for session in sessions) / max(1, starts)


def read_sessions(path: Path) -> list[GenerationSession]:
    """Return all sessions of a run, oldest first; none when there is no file. Raises DamagedFile."""
    return list(read_record(path, tuple[GenerationSession, ...]) or ())


def utc_of(moment: float) -> str:
    """Return a ``moment`` of ``time.monotonic`` in UTC, ISO 8601, whole seconds."""
    ago = datetime.timedelta(seconds=time.monotonic() - moment)
    return (datetime.datetime.now(datetime.UTC) - ago).isoformat(timespec="seconds")


def add_session(path: Path, session: GenerationSession) -> None:
    publish_json([item.to_json() for item in [*read_sessions(path), session]], path)
