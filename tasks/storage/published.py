"""The published files of a run: which they are, and the bytes that each must have.

The size and sha256 of a file are recorded when it is published: those of ``rollouts/shard-00000.parquet`` in
``state/rollouts/shard-00000.json``, those of ``report.json`` in ``state/published/report.json.json``. A downloaded
run has no such records; the entries of its ``manifest.json`` count instead. Readers compare a file with its record
before they parse it, once per process. A shard without a record is not part of the run.
"""

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, TypeVar

import polars as pl
from pydantic import Field

from profiles.regular_files import read_regular
from tasks.errors import ConfigError, DamagedRecord, StorageError
from tasks.files import (
    RECORD_BYTES,
    atomic_path,
    parse_record,
    publish_json,
    read_record,
    sha256_file,
    try_read_record,
)
from tasks.last_read import note_read
from tasks.records import SHARD_NAME, RunPaths, shard_indices
from tasks.storage.manifest import CONFIG, MANIFEST, SHARD_FOLDERS, SINGLE_FILES, Manifest, ManifestFile, parse_manifest
from tasks.storage.shard_columns import check_columns

logger = logging.getLogger(__name__)

MOST_SHARDS = 1_000_000
"""More shards than a run can have: a larger number in a config.json is damage."""

Record = TypeVar("Record")


@dataclass(frozen=True, kw_only=True)
class PublishedRecord:
    """What is recorded of a published file."""

    sha256: str
    """In hex."""
    bytes: int
    made_from: str = ""
    """Identifies the input of the file: with other input the file does not count as finished."""
    replaced: str | None = None
    """The sha256 of the file before. A kill between the record and the file leaves that one in place."""


@dataclass(frozen=True, kw_only=True)
class _Config:
    fingerprint: str
    num_shards: Annotated[int, Field(ge=1, le=MOST_SHARDS)] | None = None


@dataclass(frozen=True, kw_only=True)
class _Comparison:
    verdict: str | None = None


def record_published(path: Path, *, made_from: str = "") -> None:
    """Record the bytes that the published file at ``path`` has now."""
    _write_record(path, PublishedRecord(sha256=sha256_of(path), bytes=path.stat().st_size, made_from=made_from))


@contextlib.contextmanager
def recorded_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write, as ``atomic_path`` does; publish it as ``path`` with its record."""
    with atomic_path(path) as temporary:
        yield temporary
        record = PublishedRecord(
            sha256=sha256_file(temporary),
            bytes=temporary.stat().st_size,
            replaced=sha256_of(path) if path.is_file() else None,
        )
        _write_record(path, record)
    _write_record(path, replace(record, replaced=None))


def forget_published(path: Path) -> None:
    """Remove the record of the file at ``path``, before other bytes take its place."""
    _record_path(path).unlink(missing_ok=True)


def published_record(path: Path) -> PublishedRecord | None:
    """Return what is recorded of the file at ``path``, or None. A damaged record counts as none."""
    if own := try_read_record(_record_path(path), PublishedRecord):
        return own
    run_dir, name = _split(path)
    return _manifest_records(run_dir).get(name)


def check_published(path: Path, *, sha256: str | None = None) -> None:
    """Raise DamagedFile unless the file at ``path`` has the bytes on record; ``sha256`` spares reading it once more.

    A file beside the shards may lack a record, as in runs of earlier versions. A shard may not.
    """
    note_read(path)
    if sha256 is not None:
        _hashes[path] = (_identity(path), sha256)
    if reason := _damage(path):
        raise DamagedRecord(path, reason)


def read_published(path: Path, kind: type[Record]) -> Record | None:
    """Return the record in a published JSON file, or None when there is no file. Raises DamagedFile."""
    if path.is_file():
        check_published(path)
    return read_record(path, kind)


def read_shard(path: Path, columns: list[str] | None = None) -> pl.DataFrame:
    """Return the rows of a shard file that has the bytes on record and the columns of a run. Raises DamagedFile."""
    check_published(path)
    check_columns(path)
    return pl.read_parquet(path, columns=columns, glob=False)


def scan_shard(path: Path, *, row_index_name: str | None = None) -> pl.LazyFrame:
    """Return the lazy rows of a shard file, checked as ``read_shard`` does. Raises DamagedFile."""
    check_published(path)
    check_columns(path)
    return pl.scan_parquet(path, row_index_name=row_index_name, glob=False)


def scan_shards(run_dir: Path, folder: str) -> pl.LazyFrame:
    """Return the lazy rows of all shards in a folder of the run, which has one at least. Raises DamagedFile."""
    return pl.concat(scan_shard(path) for path in known_shards(run_dir, folder).values())


def known_shards(run_dir: Path, folder: str) -> dict[int, Path]:
    """Return the shard files of the run in ``folder`` by their indices, ascending; strange files are logged.

    Raises DamagedFile when config.json is damaged, which says how many there must be.
    """
    if (config := run_dir / CONFIG).exists():
        check_published(config)
    known, strange = _sort_out(run_dir, folder)
    _log_strange(strange)
    return known


def strange_files(run_dir: Path) -> list[str]:
    """Return the files, relative to ``run_dir``, that look like shards of the run and are not on record."""
    strange = [path for folder in SHARD_FOLDERS for path in _sort_out(run_dir, folder)[1]]
    return [f"{path.parent.name}/{path.name}" for path in strange]


def published_files(run_dir: Path) -> list[str]:
    """Return the files of the run that an upload sends, relative to ``run_dir``: no state, logs or temporary files."""
    single = [name for name in SINGLE_FILES if (run_dir / name).is_file()]
    return single + [
        f"{folder}/{path.name}" for folder in SHARD_FOLDERS for path in _sort_out(run_dir, folder)[0].values()
    ]


def missing_shards(run_dir: Path) -> list[str]:
    """Return the shard files that the run lacks, relative to ``run_dir``; scores only if any shard is scored."""
    known = {folder: _sort_out(run_dir, folder)[0] for folder in SHARD_FOLDERS}
    found = {*known["questions"], *known["rollouts"]}
    indices = sorted(found | {*range(_planned_shards(run_dir) or 0)})
    folders = [folder for folder in SHARD_FOLDERS if folder != "scores" or known["scores"]]
    names = ((index, folder) for index in indices for folder in folders)
    return [f"{folder}/{SHARD_NAME.format(index)}" for index, folder in names if index not in known[folder]]


def missing_files(run_dir: Path) -> list[str]:
    """Return the published files that the run lacks: those of ``missing_shards``, and others that are on record."""
    recorded = [name for name in SINGLE_FILES if _record_path(run_dir / name).exists()]
    lost = {name for name in (*recorded, *_manifest_records(run_dir)) if not (run_dir / name).is_file()}
    shards = missing_shards(run_dir)
    return [*shards, *sorted(lost - {*shards})]


def damaged_files(run_dir: Path) -> dict[str, str]:
    """Return the published files whose bytes are not those on record, each with what is wrong."""
    found = {name: _damage(run_dir / name) for name in published_files(run_dir)}
    return {name: reason for name, reason in found.items() if reason}


def problems_of_run(run_dir: Path) -> list[str]:
    """Return one sentence for each published file of the run that is missing or damaged."""
    damaged = [f"{name} is damaged: {reason}" for name, reason in damaged_files(run_dir).items()]
    return [f"{name} is missing" for name in missing_files(run_dir)] + damaged


def run_fingerprint(run_dir: Path) -> str:
    """Return the fingerprint in the run's config.json.

    Raises ConfigError when ``run_dir`` is no run directory, DamagedFile when the config.json is damaged.
    """
    config = read_published(run_dir / CONFIG, _Config)
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


def build_manifest(run_dir: Path, *, sha256: Callable[[Path], str] | None = None) -> Manifest:
    """Return the manifest of the published files that are in ``run_dir`` now.

    A caller that has hashed the files already passes ``sha256``. Raises DamagedFile when a file is not what was
    published, and StorageError for a Parquet file that cannot be read.
    """
    comparison = try_read_record(RunPaths(root=run_dir).equivalence, _Comparison)
    files = []
    for name in published_files(run_dir):
        path = run_dir / name
        check_published(path, sha256=sha256(path) if sha256 else None)
        rows = _rows(path) if path.suffix == ".parquet" else None
        files.append(ManifestFile(path=name, rows=rows, bytes=path.stat().st_size, sha256=sha256_of(path)))
    return Manifest(
        run_id=run_dir.resolve().name,
        fingerprint=run_fingerprint(run_dir),
        equivalence=comparison.verdict if comparison else None,
        files=tuple(files),
    )


def write_manifest(run_dir: Path, *, sha256: Callable[[Path], str] | None = None) -> Manifest:
    """Publish ``manifest.json`` (see ``build_manifest``) and return it. The same files give the same bytes."""
    manifest = build_manifest(run_dir, sha256=sha256)
    publish_json(asdict(manifest), run_dir / MANIFEST)
    return manifest


def sha256_of(path: Path) -> str:
    """Return the hex sha256 of the file at ``path``; it is read once per process, and again when it has changed."""
    known = _hashes.get(path)
    identity = _identity(path)
    if known is None or known[0] != identity:
        known = (identity, sha256_file(path))
        _hashes[path] = known
    return known[1]


_hashes: dict[Path, tuple[tuple[int, ...], str]] = {}


def _identity(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _damage(path: Path) -> str | None:
    """Return what is wrong with the bytes of a published file, or None."""
    record = published_record(path)
    if record is None:
        return "its sha256 is not on record" if "/" in _split(path)[1] else None
    try:
        size = path.stat().st_size
        if size != record.bytes and record.replaced is None:
            return f"{record.bytes:,} bytes are on record, and there are {size:,}"
        found = sha256_of(path)
    except OSError as error:
        return error.strerror or str(error)
    if found in (record.sha256, record.replaced):
        return None
    return f"sha256 {record.sha256} is on record, and it has {found}"


def _split(path: Path) -> tuple[Path, str]:
    """Return the run directory of a published file, and its name in there."""
    if path.parent.name in SHARD_FOLDERS and path.name.startswith("shard-"):
        return path.parent.parent, f"{path.parent.name}/{path.name}"
    return path.parent, path.name


def _record_path(path: Path) -> Path:
    run_dir, name = _split(path)
    state = RunPaths(root=run_dir).state
    return state / f"{name.removesuffix('.parquet')}.json" if "/" in name else state / "published" / f"{name}.json"


def _write_record(path: Path, record: PublishedRecord) -> None:
    publish_json(asdict(record), _record_path(path))


def _manifest_records(run_dir: Path) -> dict[str, PublishedRecord]:
    path = run_dir / MANIFEST
    try:
        return _parse_manifest_records(path, _identity(path))
    except OSError:
        return {}


@functools.lru_cache(maxsize=8)
def _parse_manifest_records(path: Path, identity: tuple[int, ...]) -> dict[str, PublishedRecord]:
    try:
        files = parse_manifest(read_regular(path, RECORD_BYTES)).files
    except (OSError, ValueError) as error:
        logger.warning("%s is damaged and not used: %s", path, error)
        return {}
    return {file.path: PublishedRecord(sha256=file.sha256, bytes=file.bytes) for file in files}


def _planned_shards(run_dir: Path) -> int | None:
    try:
        config = read_record(run_dir / CONFIG, _Config)
    except DamagedRecord:
        return None
    return config.num_shards if config else None


def _sort_out(run_dir: Path, folder: str) -> tuple[dict[int, Path], tuple[Path, ...]]:
    """Return the shards that are on record, and the other files with names of shards."""
    known, strange = {}, []
    for index in shard_indices(run_dir / folder):
        path = run_dir / folder / SHARD_NAME.format(index)
        if published_record(path):
            known[index] = path
        else:
            strange.append(path)
    return known, tuple(strange)


@functools.lru_cache(maxsize=64)
def _log_strange(paths: tuple[Path, ...]) -> None:
    """Log the files once per process."""
    for path in paths:
        logger.warning("%s is not a file of this run and is left out", path)


def _rows(path: Path) -> int:
    # pyarrow reads the footer alone; a polars scan costs as much as hashing the file
    import pyarrow.parquet

    try:
        return int(pyarrow.parquet.read_metadata(path).num_rows)
    except (pyarrow.ArrowException, OSError) as error:
        raise StorageError(f"{path} is not readable Parquet: {error}. Remove it and run the same command") from error
