"""The manifest of a run: every published file with its rows, size and sha256."""

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from tasks.errors import ConfigError, StorageError
from tasks.files import parse_record, publish_json, read_record, sha256_file, try_read_record
from tasks.plain_text import one_line
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
_SHARD = re.compile(rf"(?:{'|'.join(SHARD_FOLDERS)})/shard-[A-Za-z0-9_.-]{{1,100}}\.parquet")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MOST_BYTES = 2**63 - 1
_LONGEST_NAME = 255
"""In bytes, as in most filesystems."""


@dataclass(frozen=True, kw_only=True)
class ManifestFile:
    """One published file."""

    path: str
    """Relative to the run directory."""
    rows: int | None
    """None for a file that is not Parquet."""
    bytes: int
    sha256: str
    """In hex."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The contents of ``manifest.json``."""

    run_id: str
    fingerprint: str
    equivalence: str | None
    """The verdict of the comparison with a baseline; None for a run that was not compared."""
    files: tuple[ManifestFile, ...]


@dataclass(frozen=True, kw_only=True)
class SuccessMarker:
    """The contents of ``_SUCCESS``, which is written last: the manifest with this hash describes a complete upload."""

    run_id: str
    manifest_sha256: str
    """In hex."""


@dataclass(frozen=True, kw_only=True)
class _Config:
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class _Comparison:
    verdict: str | None = None


def published_files(run_dir: Path) -> list[str]:
    """Return the files of the run that an upload sends, relative to ``run_dir``: no state, logs or temporary files."""
    shards = [
        f"{folder}/{path.name}"
        for folder in SHARD_FOLDERS
        for path in sorted((run_dir / folder).glob("shard-*.parquet"))
    ]
    return [name for name in _SINGLE_FILES if (run_dir / name).is_file()] + shards


def run_fingerprint(run_dir: Path) -> str:
    """Return the fingerprint in the run's config.json.

    Raises ConfigError when ``run_dir`` is no run directory, DamagedFile when the config.json is damaged.
    """
    config = read_record(run_dir / CONFIG, _Config)
    if config is None or not config.fingerprint:
        raise ConfigError(
            f"{run_dir} is not a run directory: it has no {CONFIG} with a fingerprint. Give RUNS_DIR/RUN_ID"
        )
    return config.fingerprint


def parse_fingerprint(config: bytes) -> str:
    """Return the fingerprint in the text of a config.json. Raises ValueError when there is none."""
    if fingerprint := parse_record(config, _Config).fingerprint:
        return fingerprint
    raise ValueError("fingerprint is empty")


def missing_shards(run_dir: Path) -> list[str]:
    """Return the shard files that the run lacks: rollouts of each shard, and scores of each shard if any is scored."""
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
    """Return the manifest of the files that are in ``run_dir`` now.

    A caller that has hashed the files already passes ``sha256_of``. Raises StorageError for a Parquet file that cannot
    be read.
    """
    return Manifest(
        run_id=run_dir.resolve().name,
        fingerprint=fingerprint,
        equivalence=equivalence,
        files=tuple(_manifest_file(name, run_dir / name, sha256_of) for name in published_files(run_dir)),
    )


def write_manifest(run_dir: Path, *, sha256_of: Callable[[Path], str] = sha256_file) -> Manifest:
    """Publish ``manifest.json`` (see ``build_manifest``) and return it. The same files give the same bytes."""
    comparison = try_read_record(RunPaths(root=run_dir).equivalence, _Comparison)
    verdict = comparison.verdict if comparison else None
    manifest = build_manifest(run_dir, run_fingerprint(run_dir), verdict, sha256_of=sha256_of)
    publish_json(asdict(manifest), run_dir / MANIFEST)
    return manifest


def parse_manifest(data: bytes) -> Manifest:
    """Return the manifest in ``data``. Raises ValueError when it is none, or is not of the files that a run publishes.

    The names in it become paths on this machine, and others may have written it.
    """
    manifest = parse_record(data, Manifest)
    if not _is_directory_name(manifest.run_id):
        raise ValueError(f"its run_id {one_line(manifest.run_id, 80)!r} is no directory name")
    listed = set()
    for file in manifest.files:
        name = one_line(file.path, 80)
        if file.path not in _SINGLE_FILES and not _SHARD.fullmatch(file.path):
            raise ValueError(f"it names {name!r}, which is no file that a run publishes")
        if file.path in listed:
            raise ValueError(f"it names {name!r} twice")
        if not 0 <= file.bytes <= _MOST_BYTES or not 0 <= (file.rows or 0) <= _MOST_BYTES:
            raise ValueError(f"the size of {name} is no number of bytes or rows")
        if not _SHA256.fullmatch(file.sha256):
            raise ValueError(f"the sha256 of {name} is {one_line(file.sha256, 80)!r}")
        listed.add(file.path)
    if CONFIG not in listed:
        raise ValueError(f"it does not name {CONFIG}")
    return manifest


def _is_directory_name(name: str) -> bool:
    is_plain = one_line(name, len(name)) == name
    return is_plain and name not in ("", ".", "..") and not {*"/\\"} & {*name} and len(name.encode()) <= _LONGEST_NAME


def _manifest_file(name: str, path: Path, sha256_of: Callable[[Path], str]) -> ManifestFile:
    rows = _rows(path) if path.suffix == ".parquet" else None
    return ManifestFile(path=name, rows=rows, bytes=path.stat().st_size, sha256=sha256_of(path))


def _rows(path: Path) -> int:
    # pyarrow reads the footer alone; a polars scan costs as much as hashing the file
    import pyarrow.parquet

    try:
        return int(pyarrow.parquet.read_metadata(path).num_rows)
    except (pyarrow.ArrowException, OSError) as error:
        raise StorageError(f"{path} is not readable Parquet: {error}. Remove it and run the same command") from error
