"""Which files a run has published, lacks, or does not know; its fingerprint and its manifest."""

import functools
import logging
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import polars as pl
from pydantic import Field

from profiles.regular_files import read_regular
from tasks.errors import ConfigError, DamagedRecord, StorageError
from tasks.files import RECORD_BYTES, parse_record, publish_json, sha256_of, try_read_record, xxh3_of
from tasks.locks import find_holder
from tasks.records import WAVE_STEP, RunPaths, first_file, is_shard_file, shard_indices, shard_of, shard_stem, wave_of
from tasks.storage.manifest import (
    CONFIG,
    MANIFEST,
    SHARD_FOLDERS,
    SINGLE_FILES,
    Manifest,
    ManifestFile,
    parse_manifest,
)
from tasks.storage.published import (
    check_published,
    damage_of,
    manifest_records,
    published_record,
    read_published,
    record_path,
    scan_shard,
)
from tasks.storage.stored_config import MOST_SHARDS, StoredConfig, read_stored_config

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Settled:
    """What is recorded of a shard without a group that needs more samples."""

    waves: Annotated[int, Field(ge=1, lt=MOST_SHARDS)]
    """How many waves of samples it has, the first included."""


@dataclass(frozen=True, kw_only=True)
class _Comparison:
    verdict: str | None = None


def known_shards(run_dir: Path, folder: str) -> dict[int, Path]:
    """Return the shards of the run in ``folder`` by their indices, ascending; strange files are logged.

    Each is told by its first file: ``scan_shard`` and ``read_shard`` add its later waves of samples. Raises DamagedFile
    when config.json is damaged, which says how many there must be.
    """
    return {index: path for index, path in known_waves(run_dir, folder).items() if not wave_of(index)}


def known_waves(run_dir: Path, folder: str) -> dict[int, Path]:
    """Return all shard files of the run in ``folder`` by their indices, those of later waves too.

    Raises DamagedFile as ``known_shards`` does.
    """
    if (config := run_dir / CONFIG).exists():
        check_published(config)
    known, strange = _sort_out(run_dir, folder)
    # one that a run publishes now has no record for a moment
    if strange and not find_holder(RunPaths(root=run_dir).state / "lock")[1]:
        _log_strange(strange)
    return known


def scan_shards(run_dir: Path, folder: str) -> pl.LazyFrame:
    """Return the lazy rows of all shards in a folder of the run, which has one at least. Raises DamagedFile."""
    return pl.concat(scan_shard(path) for path in known_shards(run_dir, folder).values())


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


def is_published_file(run_dir: Path, name: str) -> bool:
    """Return whether ``name`` is one of ``published_files``, without a look at the others."""
    path = run_dir / name
    if name in SINGLE_FILES:
        return path.is_file()
    folder, _, file = name.partition("/")
    return folder in SHARD_FOLDERS and is_shard_file(file) and path.is_file() and published_record(path) is not None


def first_wave(name: str) -> str:
    """Return the name of the first file of a shard, relative to its run, given that of a wave; another as it is."""
    folder, _, file = name.partition("/")
    return f"{folder}/{first_file(file)}" if folder in SHARD_FOLDERS else name


def settled_waves(run_dir: Path, shard: int) -> int | None:
    """Return how many waves a shard without a group that needs more samples has; None for another, or a lost record.

    The manifest of a run is written when all its shards are settled, and a downloaded run has no other record.
    """
    paths = RunPaths(root=run_dir)
    if settled := try_read_record(paths.settled(shard), Settled):
        return settled.waves
    listed, waves = manifest_records(run_dir), 0
    while entry := listed.get(f"rollouts/{shard_stem(shard + WAVE_STEP * waves)}.parquet"):
        own = published_record(paths.rollouts(shard + WAVE_STEP * waves))
        if own is None or own.sha256 != entry.sha256:
            # made again since
            return None
        waves += 1
    return waves or None


def missing_shards(run_dir: Path) -> list[str]:
    """Return the shard files that the run lacks, relative to ``run_dir``; scores only if any shard is scored.

    Where groups stop by a rule, also the next wave of each shard that is not known to need none.
    """
    known = {folder: _sort_out(run_dir, folder)[0] for folder in SHARD_FOLDERS}
    found = {*known["questions"], *known["rollouts"]}
    try:
        config = read_stored_config(run_dir)
    except DamagedRecord:
        config = StoredConfig()
    indices = sorted(found | {*range(config.num_shards or 0)})
    if config.config.sampling.sample_until is not None:
        indices = sorted({*indices, *_later_waves(run_dir, indices)})
    folders = [folder for folder in SHARD_FOLDERS if folder != "scores" or known["scores"]]
    names = ((index, folder) for index in indices for folder in folders if folder != "questions" or not wave_of(index))
    return [f"{folder}/{shard_stem(index)}.parquet" for index, folder in names if index not in known[folder]]


def lost_shards(run_dir: Path) -> list[str]:
    """Return the shard files that are on record in ``state/`` and gone, relative to ``run_dir``; reads no file."""
    return [
        f"{folder}/{record.stem}.parquet"
        for folder in SHARD_FOLDERS
        for record in sorted((RunPaths(root=run_dir).state / folder).glob("shard-*.json"))
        if not (run_dir / folder / f"{record.stem}.parquet").is_file()
    ]


def missing_files(run_dir: Path) -> list[str]:
    """Return the published files that the run lacks: those of ``missing_shards``, and others that are on record."""
    recorded = [name for name in SINGLE_FILES if record_path(run_dir / name).exists()]
    lost = {name for name in (*recorded, *manifest_records(run_dir)) if not (run_dir / name).is_file()}
    shards = missing_shards(run_dir)
    return [*shards, *sorted(lost - {*shards})]


def damaged_files(run_dir: Path) -> dict[str, str]:
    """Return the published files whose bytes are not those on record, each with what is wrong."""
    found = {name: damage_of(run_dir / name, by_sha256=True) for name in published_files(run_dir)}
    return {name: reason for name, reason in found.items() if reason}


def problems_of_run(run_dir: Path) -> list[str]:
    """Return one sentence for each published file of the run that is missing or damaged, the manifest included."""
    damaged = [f"{name} is damaged: {reason}" for name, reason in damaged_files(run_dir).items()]
    return [f"{name} is missing" for name in missing_files(run_dir)] + damaged + _problems_of_manifest(run_dir)


def _problems_of_manifest(run_dir: Path) -> list[str]:
    """Return what is wrong with the run's manifest, if it has one.

    It may be older than what was made from the rollouts, such as the report: the next upload writes a new one.
    """
    path = run_dir / MANIFEST
    if not os.path.lexists(path):
        return []
    try:
        files = parse_manifest(read_regular(path, RECORD_BYTES)).files
    except (OSError, ValueError) as error:
        return [f"{MANIFEST} is damaged: {error}"]
    return [
        f"{MANIFEST} has another sha256 of {file.path} than is on record"
        for file in files
        if file.path.startswith(("questions/", "rollouts/"))
        and (record := published_record(run_dir / file.path)) is not None
        and file.sha256 != record.sha256
    ]


def run_fingerprint(run_dir: Path) -> str:
    """Return the fingerprint in the run's config.json.

    Raises ConfigError when ``run_dir`` is no run directory, DamagedFile when the config.json is damaged.
    """
    config = read_published(run_dir / CONFIG, StoredConfig)
    if config is not None and config.fingerprint is None:
        raise DamagedRecord(run_dir / CONFIG, "it has no fingerprint")
    if config is None or not config.fingerprint:
        raise ConfigError(
            f"{run_dir} is not a run directory: it has no {CONFIG} with a fingerprint. Give RUNS_DIR/RUN_ID"
        )
    return config.fingerprint


def parse_fingerprint(config: bytes) -> str:
    """Return the fingerprint in the text of a config.json. Raises ValueError when there is none."""
    if fingerprint := parse_record(config, StoredConfig).fingerprint:
        return fingerprint
    raise ValueError("fingerprint is missing or empty")


def build_manifest(run_dir: Path) -> Manifest:
    """Return the manifest of the published files that are in ``run_dir`` now.

    Raises DamagedFile when a file is not what was published, and StorageError for a Parquet file that cannot be read.
    """
    comparison = try_read_record(RunPaths(root=run_dir).equivalence, _Comparison)
    files = []
    for name in published_files(run_dir):
        path = run_dir / name
        check_published(path, by_sha256=True)
        rows = _rows(path) if path.suffix == ".parquet" else None
        size = path.stat().st_size
        files.append(ManifestFile(path=name, rows=rows, bytes=size, sha256=sha256_of(path), xxh3=xxh3_of(path)))
    return Manifest(
        run_id=run_dir.resolve().name,
        fingerprint=run_fingerprint(run_dir),
        equivalence=comparison.verdict if comparison else None,
        files=tuple(files),
    )


def write_manifest(run_dir: Path) -> Manifest:
    """Publish ``manifest.json`` (see ``build_manifest``) and return it. The same files give the same bytes."""
    manifest = build_manifest(run_dir)
    publish_json(asdict(manifest), run_dir / MANIFEST)
    return manifest


def _later_waves(run_dir: Path, indices: list[int]) -> Iterator[int]:
    """Yield the later waves that the shards among ``indices`` must have, as far as it is known."""
    most: dict[int, int] = {}
    for index in indices:
        most[shard_of(index)] = max(most.get(shard_of(index), 0), wave_of(index))
    for shard, wave in most.items():
        settled = settled_waves(run_dir, shard)
        last = wave + 1 if settled is None else max(wave, settled - 1)
        yield from (shard + WAVE_STEP * each for each in range(1, last + 1))


def _sort_out(run_dir: Path, folder: str) -> tuple[dict[int, Path], tuple[Path, ...]]:
    """Return the shards that are on record, and the other files with names of shards."""
    known, strange = {}, []
    for index in shard_indices(run_dir / folder):
        path = run_dir / folder / f"{shard_stem(index)}.parquet"
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
