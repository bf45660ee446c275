"""What was expected of a run, kept in its ``state`` until its report says what it took."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tasks.errors import DamagedFile
from tasks.files import publish_json, read_record
from tasks.generation.generation_log import GenerationSession, start_of_one
from tasks.records import RunPaths


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What was expected of a run when it was begun or resumed last, and what that took."""

    expected_tokens: int
    """Completion tokens."""
    tokens: int
    expected_seconds: float | None
    """From the start of the first engine to the last rollout; None when nothing told how fast it would be."""
    seconds: float


def keep_expected(paths: RunPaths, *, tokens: int, seconds: float | None) -> None:
    """Keep what is expected of the run's next session."""
    publish_json(asdict(_Kept(tokens=tokens, seconds=seconds)), _path(paths))


def outcome_of(paths: RunPaths, sessions: Sequence[GenerationSession]) -> Outcome | None:
    """Return what was expected of the run's last session and what it took; None where nothing is on record."""
    try:
        expected = read_record(_path(paths), _Kept)
    except DamagedFile:
        return None  # nothing depends on what was expected
    if expected is None or not sessions or sessions[-1].shared_with:
        return None
    return Outcome(
        expected_tokens=expected.tokens,
        tokens=sessions[-1].tokens,
        expected_seconds=expected.seconds,
        seconds=round(start_of_one(sessions[-1:]) + sessions[-1].seconds, 3),
    )


@dataclass(frozen=True, kw_only=True)
class _Kept:
    tokens: int
    seconds: float | None


def _path(paths: RunPaths) -> Path:
    return paths.state / "expected.json"
