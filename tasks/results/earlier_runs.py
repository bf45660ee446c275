"""What earlier runs of a runs directory tell of one to come: how long completions were, how fast they came, their size.

Only small files are read, of the newest MOST_READ runs, and of a run that is not finished one column of a few shards.
Runs that ``harvest bench`` made count as runs. A run with a damaged file is left out, or what that file would tell.
"""

import contextlib
import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import polars as pl
from pydantic import Field

from profiles.regular_files import read_regular
from tasks.errors import DamagedFile
from tasks.files import RECORD_BYTES
from tasks.generation.generation_log import GenerationSession, read_sessions, start_of_one
from tasks.records import RunPaths
from tasks.results.metrics import mean
from tasks.storage.manifest import parse_manifest
from tasks.storage.published import read_published
from tasks.storage.stored_config import StoredConfig, StoredSampling

MOST_READ = 200
MOST_SHARDS = 4
_RUNS = ("*/config.json", "bench-*/repeat-*/*/config.json")

_Count = Annotated[int, Field(ge=0, lt=2**63)]
_Length = Annotated[float, Field(ge=0, lt=2**63, allow_inf_nan=False)]
_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast a run was generated, over its sessions on engines of the same kind."""

    tokens_per_s: float
    """Of one engine while it generates."""
    start_seconds: float
    """Mean start of one engine."""
    engines: int
    device: str | None
    """None in a run of an earlier version and on several nodes."""


@dataclass(frozen=True, kw_only=True)
class EarlierRun:
    """One earlier run. A value that its files do not have is None."""

    root: Path
    changed: float
    """When its directory changed last, in seconds since the epoch."""
    comparable: dict[str, Any]
    tested: dict[str, Any]
    dataset: dict[str, Any]
    sampling: StoredSampling
    model_path: str
    rollouts: int
    """How many the values below are of."""
    mean_tokens: float | None
    """Mean completion, in tokens."""
    truncation_rate: float | None
    """Share of 1."""
    sessions: tuple[GenerationSession, ...]
    bytes_per_rollout: float | None
    """Its files of rollouts and scores on disk."""

    @property
    def name(self) -> str:
        """Its run id; of a run that a benchmark made, with the benchmark's directory."""
        bench = next((parent.name for parent in self.root.parents[:2] if parent.name.startswith("bench-")), None)
        return self.root.name if bench is None else f"{bench}/{self.root.parent.name}/{self.root.name}"

    def speed(self, known: Sequence["EarlierRun"]) -> Speed | None:
        """Return its speed; None where other policies of its weights took a part of the engines' time.

        Of ``known`` runs with other weights, each had the engines by itself.
        """
        others = {run.root.name for run in known if run.model_path != self.model_path}
        own = [
            each for each in self.sessions if each.seconds > 0 and each.replicas > 0 and {*each.shared_with} <= others
        ]
        last = [each for each in own if (each.replicas, each.device) == (own[-1].replicas, own[-1].device)]
        tokens = sum(each.tokens for each in last)
        if tokens <= 0:
            return None
        return Speed(
            tokens_per_s=tokens / sum(each.seconds * each.replicas for each in last),
            start_seconds=start_of_one(last),
            engines=last[-1].replicas,
            device=last[-1].device,
        )


def read_earlier(runs_dir: Path, tokenizer: str) -> list[EarlierRun]:
    """Return the newest runs below ``runs_dir`` whose models have the ``tokenizer``, the last changed first."""
    found: list[tuple[float, Path]] = []
    for pattern in _RUNS:
        for config in runs_dir.glob(pattern):
            with contextlib.suppress(OSError):
                found.append((config.parent.stat().st_mtime, config.parent))
    newest = heapq.nlargest(MOST_READ, found)
    return [run for changed, root in newest if (run := _read(root, changed, tokenizer)) is not None]


@dataclass(frozen=True, kw_only=True)
class _Overall:
    mean_completion_tokens: _Length | None = None
    truncation_rate: _Share | None = None


@dataclass(frozen=True, kw_only=True)
class _Generation:
    sessions: tuple[GenerationSession, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Report:
    num_rollouts: _Count = 0
    num_errors: _Count = 0
    overall: _Overall = field(default_factory=_Overall)
    generation: _Generation = field(default_factory=_Generation)


def _read(root: Path, changed: float, tokenizer: str) -> EarlierRun | None:
    paths = RunPaths(root=root)
    try:
        config = read_published(paths.config, StoredConfig)
        if config is None or config.comparable.get("tokenizer") != tokenizer or not config.config.sampling.max_tokens:
            return None
        report = read_published(paths.report, _Report)
        known = (report and report.generation.sessions) or read_sessions(paths.state / "generation.json")
    except (DamagedFile, OSError):
        return None
    sessions = tuple(filter(_is_possible, known))
    rollouts, mean = _lengths(report, sessions, paths)
    return EarlierRun(
        root=root,
        changed=changed,
        comparable=config.comparable,
        tested=config.tested,
        dataset=config.config.dataset,
        sampling=config.config.sampling,
        model_path=config.model.path,
        rollouts=rollouts,
        mean_tokens=mean,
        truncation_rate=None if report is None else report.overall.truncation_rate,
        sessions=sessions,
        bytes_per_rollout=_bytes_per_rollout(paths),
    )


def _is_possible(session: GenerationSession) -> bool:
    """Return whether the numbers can be those of a session; nothing vouches for those in ``state``."""
    counts = (session.tokens, session.rollouts, session.restarts, session.replicas)
    return all(0 <= value < 2**53 for value in (*counts, session.seconds, session.start_seconds))


def _lengths(
    report: _Report | None, sessions: Sequence[GenerationSession], paths: RunPaths
) -> tuple[int, float | None]:
    """Return the number of completions and their mean length: of a finished run, or of what one has made so far."""
    if report is not None:
        return report.num_rollouts - report.num_errors, report.overall.mean_completion_tokens
    # the tokens of sessions are also of completions that never ended: of one that was killed early, of most
    return sum(each.rollouts for each in sessions), _mean_of_shards(paths)


def _mean_of_shards(paths: RunPaths) -> float | None:
    """Return the mean length in tokens over a few published shards; None without one that can be read."""
    shards = [path for path in sorted(paths.root.glob("rollouts/shard-*.parquet")) if path.is_file()][:MOST_SHARDS]
    try:
        rows = pl.scan_parquet(shards, glob=False).filter(pl.col("error").is_null()) if shards else None
        return None if rows is None else mean(rows.select("num_completion_tokens").collect().to_series())
    except (OSError, pl.exceptions.PolarsError):
        return None


def _bytes_per_rollout(paths: RunPaths) -> float | None:
    try:
        files = parse_manifest(read_regular(paths.manifest, RECORD_BYTES)).files
    except (OSError, ValueError):
        return None
    rows = sum(file.rows or 0 for file in files if file.path.startswith("rollouts/"))
    size = sum(file.bytes for file in files if file.path.startswith(("rollouts/", "scores/")))
    return size / rows if rows else None
