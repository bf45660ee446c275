"""The bytes that each published file of a run must have, and the reading of those that have them.

The size, sha256 and XXH3 of a file are recorded when it is published: those of ``rollouts/shard-00000.parquet`` in
``state/rollouts/shard-00000.json``, those of ``report.json`` in ``state/published/report.json.json``. A downloaded
run has no such records; the entries of its ``manifest.json`` count instead. Readers compare a file with its record
before they parse it, once per process. They compare the XXH3 where there is one, as it is the faster; an upload and
``harvest verify`` compare the sha256. A shard without a record is not part of the run.
"""

import contextlib
import functools
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

import polars as pl

from profiles.regular_files import read_regular
from tasks.errors import DamagedRecord
from tasks.files import (
    RECORD_BYTES,
    atomic_path,
    file_identity,
    publish_json,
    read_record,
    sha256_file,
    sha256_of,
    try_read_record,
    xxh3_file,
    xxh3_of,
)
from tasks.last_read import note_read
from tasks.records import DIFFICULTY, WAVE_STEP, WAVES, RunPaths, folder_kind, shard_index, shard_stem, wave_of
from tasks.storage.manifest import MANIFEST, SHARD_FOLDERS, parse_manifest
from tasks.storage.shard_columns import check_columns

logger = logging.getLogger(__name__)

Record = TypeVar("Record")


@dataclass(frozen=True, kw_only=True)
class PublishedRecord:
    """What is recorded of a published file."""

    sha256: str
    """In hex."""
    bytes: int
    xxh3: str | None = None
    """In hex, 128 bits; runs of earlier versions have none."""
    made_from: str = ""
    """Identifies the input of the file: with other input the file does not count as finished."""
    replaced: str | None = None
    """The sha256 of the file before. A kill between the record and the file leaves that one in place."""


def record_published(path: Path, *, made_from: str = "") -> None:
    """Record the bytes that the published file at ``path`` has now."""
    size = path.stat().st_size
    _write_record(path, PublishedRecord(sha256=sha256_of(path), bytes=size, xxh3=xxh3_file(path), made_from=made_from))


@contextlib.contextmanager
def recorded_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write, as ``atomic_path`` does; publish it as ``path`` with its record."""
    with atomic_path(path) as temporary:
        yield temporary
        record = PublishedRecord(
            sha256=sha256_file(temporary),
            bytes=temporary.stat().st_size,
            xxh3=xxh3_file(temporary),
            replaced=sha256_of(path) if path.is_file() else None,
        )
        _write_record(path, record)
    _write_record(path, replace(record, replaced=None))


def forget_published(path: Path) -> None:
    """Remove the record of the file at ``path``, before other bytes take its place."""
    record_path(path).unlink(missing_ok=True)


def published_record(path: Path) -> PublishedRecord | None:
    """Return what is recorded of the file at ``path``, or None. A damaged record counts as none."""
    if own := try_read_record(record_path(path), PublishedRecord):
        return own
    run_dir, name = _split(path)
    return manifest_records(run_dir).get(name)


def has_own_record(path: Path) -> bool:
    """Return whether the file at ``path`` has a record in ``state/``, as all have that were made here."""
    return record_path(path).is_file()


def check_published(path: Path, *, by_sha256: bool = False) -> None:
    """Raise DamagedFile unless the file at ``path`` has the bytes on record.

    A file beside the shards may lack a record, as in runs of earlier versions. A shard may not.
    """
    note_read(path)
    if reason := damage_of(path, by_sha256=by_sha256):
        raise DamagedRecord(path, reason)


def read_published(path: Path, kind: type[Record]) -> Record | None:
    """Return the record in a published JSON file, or None when there is no file. Raises DamagedFile."""
    if path.is_file():
        check_published(path)
    return read_record(path, kind)


def read_wave(path: Path, columns: list[str] | None = None) -> pl.DataFrame:
    """Return the rows of one file that has the bytes on record and the columns of a run. Raises DamagedFile."""
    check_published(path)
    check_columns(path)
    return pl.read_parquet(path, columns=columns, glob=False)


def read_shard(path: Path, columns: list[str] | None = None) -> pl.DataFrame:
    """Return the rows of the shard whose first file is at ``path``, with those of its later waves of samples.

    Each file has the bytes on record and the columns of a run. Raises DamagedFile.
    """
    files = shard_files(path)
    if len(files) == 1:
        return read_wave(path, columns)
    return pl.concat([read_wave(each, columns) for each in files], how="diagonal_relaxed")


def scan_shard(path: Path, *, row_index_name: str | None = None) -> pl.LazyFrame:
    """Return the lazy rows of a shard with its later waves, checked as ``read_shard`` does. Raises DamagedFile."""
    files = shard_files(path)
    for each in files:
        check_published(each)
        check_columns(each)
    if len(files) == 1:
        return pl.scan_parquet(path, row_index_name=row_index_name, glob=False)
    # until all are scored, a scorer of the user may have given other columns in each
    rows = pl.concat([pl.scan_parquet(each, glob=False) for each in files], how="diagonal_relaxed")
    return rows if row_index_name is None else rows.with_row_index(row_index_name)


def shard_files(path: Path) -> list[Path]:
    """Return ``path``, the first file of a shard, and the files of its later waves that are on record beside it."""
    found = [path]
    try:
        index = shard_index(path)
    except ValueError:
        return found
    while not wave_of(index):
        later = path.with_name(f"{shard_stem(index + WAVE_STEP * len(found))}.parquet")
        if not later.is_file() or published_record(later) is None:
            break
        found.append(later)
    return found


def damage_of(path: Path, *, by_sha256: bool = False) -> str | None:
    """Return what is wrong with the bytes of the published file at ``path``, or None.

    The XXH3 is enough, where it is on record, unless ``by_sha256`` is asked for.
    """
    record = published_record(path)
    if record is None:
        return "its sha256 is not on record" if "/" in _split(path)[1] else None
    try:
        size = path.stat().st_size
        if size != record.bytes and record.replaced is None:
            return f"{record.bytes:,} bytes are on record, and there are {size:,}"
        if not by_sha256 and record.xxh3 is not None and xxh3_of(path) == record.xxh3:
            return None
        found = sha256_of(path)
    except OSError as error:
        return error.strerror or str(error)
    if found in (record.sha256, record.replaced):
        return None
    return f"sha256 {record.sha256} is on record, and it has {found}"


def _split(path: Path) -> tuple[Path, str]:
    """Return the run directory of a published file, and its name in there."""
    if path.parent.name == WAVES and path.parent.parent.name == "state":
        return path.parent.parent.parent, f"{WAVES}/{path.name}"
    is_difficulty = f"{path.parent.name}/{path.name}" == DIFFICULTY
    if is_difficulty or (folder_kind(path.parent.name) in SHARD_FOLDERS and path.name.startswith("shard-")):
        return path.parent.parent, f"{path.parent.name}/{path.name}"
    return path.parent, path.name


def record_path(path: Path) -> Path:
    """Return where the record of the published file at ``path`` is."""
    run_dir, name = _split(path)
    state = RunPaths(root=run_dir).state
    return state / f"{name.removesuffix('.parquet')}.json" if "/" in name else state / "published" / f"{name}.json"


def _write_record(path: Path, record: PublishedRecord) -> None:
    publish_json(asdict(record), record_path(path))


def manifest_records(run_dir: Path) -> dict[str, PublishedRecord]:
    """Return what the run's ``manifest.json`` says of each file, by name; nothing without one that can be read."""
    path = run_dir / MANIFEST
    try:
        return _records_of_manifest(path, file_identity(path.stat()))
    except OSError:
        return {}


@functools.lru_cache(maxsize=8)
def _records_of_manifest(path: Path, identity: tuple[int, ...]) -> dict[str, PublishedRecord]:
    try:
        files = parse_manifest(read_regular(path, RECORD_BYTES)).files
    except (OSError, ValueError) as error:
        logger.warning("%s is damaged and not used: %s", path, error)
        return {}
    return {file.path: PublishedRecord(sha256=file.sha256, bytes=file.bytes, xxh3=file.xxh3) for file in files}
