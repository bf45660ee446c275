"""The manifest of a run: every published file with its rows, size and sha256."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tasks.errors import ConfigError, StorageError
from tasks.files import publish_json, read_json, sha256_file
from tasks.records import RunPaths, shard_indices

MANIFEST = "manifest.json"
SUCCESS = "_SUCCESS"
CONFIG = "config.json"
SHARD_FOLDERS = ("questions", "rollouts", "scores")
_SINGLE_FILES = (
    CONFIG,
    "preflight.json",
    "equivalence.json",
    "report.json",
    "report.html",
    "telemetry.parquet",
    "README.md",
)


@dataclass(frozen=True, kw_only=True)
class ManifestFile:
    """One published file. ``rows`` is None for what is not Parquet, ``bytes`` its size, ``sha256`` hex."""

    path: str
    rows: int | None
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a run consists of. ``equivalence`` is the verdict, None for a run that was not compared."""

    run_id: str
    fingerprint: str
    equivalence: str | None
    files: tuple[ManifestFile, ...]


def published_files(run_dir: Path) -> list[str]:
    """The run's files that leave the machine, relative to ``run_dir``: no state, logs or temporary files."""
    shards = [
        f"{folder}/{path.name}"
        for folder in SHARD_FOLDERS
        for path in sorted((run_dir / folder).glob("shard-*.parquet"))
    ]
    return [name for name in _SINGLE_FILES if (run_dir / name).is_file()] + shards


def run_fingerprint(run_dir: Path) -> str:
    """The fingerprint in the run's config.json. Raises ConfigError when ``run_dir`` is no run directory."""
    config = read_json(run_dir / CONFIG)
    if not isinstance(config, dict) or not config.get("fingerprint"):
        raise ConfigError(
            f"{run_dir} is not a run directory: it has no {CONFIG} with a fingerprint. Give RUNS_DIR/RUN_ID"
        )
    return str(config["fingerprint"])


def missing_shards(run_dir: Path) -> list[str]:
    """Shard files that a finished run would have: rollouts and, where any shard is scored, scores of every shard."""
    paths = RunPaths(root=run_dir)
    scored = shard_indices(run_dir / "scores")
    missing = []
    for index in shard_indices(run_dir / "questions"):
        expected = [paths.rollouts(index), *([paths.scores(index)] if scored else [])]
        missing += [path.relative_to(run_dir).as_posix() for path in expected if not path.is_file()]
    return missing


def build_manifest(
    run_dir: Path,
    fingerprint: str,
    equivalence: str | None,
    *,
    sha256_of: Callable[[Path], str] = sha256_file,
) -> Manifest:
    """The manifest of the files now in ``run_dir``; ``sha256_of`` serves callers who have hashed them already.

    Raises StorageError for a Parquet file that cannot be read.
    """
    return Manifest(
        run_id=run_dir.resolve().name,
        fingerprint=fingerprint,
        equivalence=equivalence,
        files=tuple(_manifest_file(name, run_dir / name, sha256_of) for name in published_files(run_dir)),
    )


def write_manifest(
    run_dir: Path,
    *,
    sha256_of: Callable[[Path], str] = sha256_file,
) -> Manifest:
    """Build (see ``build_manifest``) and publish ``manifest.json``; the same files give the same bytes."""
    comparison = read_json(run_dir / "equivalence.json")
    verdict = comparison.get("verdict") if isinstance(comparison, dict) else None
    manifest = build_manifest(run_dir, run_fingerprint(run_dir), verdict, sha256_of=sha256_of)
    publish_json(asdict(manifest), run_dir / MANIFEST)
    return manifest


def parse_manifest(data: bytes) -> Manifest:
    """The manifest in ``data``. Raises ValueError when it is none, or names a path outside the run."""
    try:
        raw: Mapping[str, Any] = json.loads(data)
        files = tuple(
            ManifestFile(path=_safe(file["path"]), rows=file["rows"], bytes=int(file["bytes"]), sha256=file["sha256"])
            for file in raw["files"]
        )
        return Manifest(
            run_id=raw["run_id"], fingerprint=raw["fingerprint"], equivalence=raw["equivalence"], files=files
        )
    except (KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"it lacks {error}") from None


def _safe(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path:
        raise ValueError(f"it names {path!r}, which is outside the run")
    return path


def _manifest_file(name: str, path: Path, sha256_of: Callable[[Path], str]) -> ManifestFile:
    rows = _rows(path) if path.suffix == ".parquet" else None
    return ManifestFile(path=name, rows=rows, bytes=path.stat().st_size, sha256=sha256_of(path))


def _rows(path: Path) -> int:
    # from the footer alone; a polars scan costs as much as hashing the file
    import pyarrow.parquet

    try:
        return int(pyarrow.parquet.read_metadata(path).num_rows)
    except (pyarrow.ArrowException, OSError) as error:
        raise StorageError(f"{path} is not readable Parquet: {error}. Remove it and run the same command") from error
