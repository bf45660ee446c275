"""What generating cost, kept per session, since a run may be interrupted and resumed."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.files import publish_json, read_json


@dataclass(frozen=True, kw_only=True)
class GenerationSession:
    """One stretch of generating. ``seconds`` runs from the first admitted to the last finished rollout;
    ``start_seconds`` is what loading took before; ``restarts`` counts engines lost to failures. Of several nodes,
    ``seconds`` are those of the clock and all else is the sum over ``nodes``, which says what each one did."""

    started_at: str
    seconds: float
    start_seconds: float
    tokens: int
    rollouts: int
    restarts: int
    replicas: int
    gpus: int
    nodes: tuple[dict[str, Any], ...] = ()


def read_sessions(path: Path) -> list[GenerationSession]:
    value = read_json(path)
    return [GenerationSession(**item) for item in value] if isinstance(value, list) else []


def add_session(path: Path, session: GenerationSession) -> None:
    publish_json([asdict(item) for item in [*read_sessions(path), session]], path)
