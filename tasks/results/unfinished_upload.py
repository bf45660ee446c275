"""Brings back the rollouts and scores of an upload that was not finished, so that its run goes on on another machine.

There is no manifest yet that says what a file must be. S3 keeps the sha256 with which each file was sent. Of a store
that keeps none, such as a directory, a file is taken as it is read, if all of it can be. What is damaged is left out,
as is what a store does not hold yet: the run makes both.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl
import pyarrow
import pyarrow.parquet

from tasks.errors import ConfigError, DamagedFile, UploadError
from tasks.files import parse_record
from tasks.plan.shards import made_from_scorer, published_rows, scorer_of_rows
from tasks.records import RunPaths, is_shard_file, shard_index
from tasks.storage.destination import open_store
from tasks.storage.download import DamagedCopy, fetch_file, mark_download, remove_mark
from tasks.storage.filesystems import TransferSettings
from tasks.storage.manifest import CONFIG, SUCCESS, ManifestFile, is_run_name
from tasks.storage.object_store import ObjectStore
from tasks.storage.published import damage_of, forget_published, has_own_record, record_published, recorded_path
from tasks.storage.run_files import parse_fingerprint
from tasks.storage.shard_columns import check_columns
from tasks.storage.verify import read_small


@dataclass(frozen=True, kw_only=True)
class BroughtBack:
    """What an unfinished upload held of a run."""

    run_dir: Path
    files: int
    """Files of rollouts and of scores."""
    rollouts: int
    left_out: tuple[str, ...]
    """One sentence for each file that the run makes again."""


@dataclass(frozen=True, kw_only=True)
class _Named:
    run_id: str


def download_unfinished(url: str, directory: Path, transfer: TransferSettings | None = None) -> BroughtBack:
    """Download what the unfinished upload at ``url`` (``.../RUN_ID``) holds to ``directory/RUN_ID``.

    An interrupted download can be resumed. Raises ConfigError when the upload is finished or the directory is there
    already, UploadError when there is no run at ``url`` or it cannot be read.
    """
    transfer = transfer or TransferSettings()
    store = open_store(url, transfer)
    listed = store.listing()
    if SUCCESS in listed:
        raise ConfigError(f"{store.url} is a finished upload. Leave out --unfinished")
    config, run_id = _read_config(store)
    paths = RunPaths(root=directory / run_id)
    mark_download(paths.root, store.url, [f"{folder}/x" for folder in ("rollouts", "scores")])
    fetch = partial(_bring_back, store, paths)
    left_out: list[str | None] = []
    with ThreadPoolExecutor(transfer.workers, thread_name_prefix="download") as pool:
        try:
            # scores are told to be of the rollouts that are there
            for folder in ("rollouts", "scores"):
                names = sorted(key for key in listed if key.startswith(f"{folder}/"))
                left_out += pool.map(fetch, [name for name in names if is_shard_file(name.partition("/")[2])])
        except BaseException:
            store.stop()
            pool.shutdown(cancel_futures=True)
            raise
    with recorded_path(paths.config) as temporary:
        temporary.write_bytes(config)
    remove_mark(paths.root)
    rows = [published_rows(path) or 0 for path in (paths.root / "rollouts").glob("*.parquet")]
    return BroughtBack(
        run_dir=paths.root,
        files=left_out.count(None),
        rollouts=sum(rows),
        left_out=tuple(told for told in left_out if told),
    )


def _read_config(store: ObjectStore) -> tuple[bytes, str]:
    """Return the config.json at ``store``, and the id of the run in it, which becomes a path on this machine."""
    data = read_small(store, CONFIG)
    if data is None:
        raise UploadError(f"{store.url} has no {CONFIG}: it holds no run, or nothing of it yet. Give URL/RUN_ID")
    try:
        parse_fingerprint(data)
        run_id = parse_record(data, _Named).run_id
    except ValueError as error:
        raise UploadError(f"{CONFIG} at {store.url} is damaged: {error}. Nothing can be brought back") from None
    if not is_run_name(run_id):
        raise UploadError(f"{CONFIG} at {store.url} is damaged: its run_id is no directory name")
    return data, run_id


def _bring_back(store: ObjectStore, paths: RunPaths, name: str) -> str | None:
    """Download one file and record it. Return why it is left out, or None."""
    path = paths.root / name
    if has_own_record(path) and damage_of(path, by_sha256=True) is None:
        return None
    stored = store.head(name)
    if stored is None:
        return f"{name} was removed from {store.url} just now"
    sha256 = stored.sha256 or store.sha256(name, stored.size)
    try:
        fetch_file(store, ManifestFile(path=name, rows=None, bytes=stored.size, sha256=sha256), paths.root)
        _check_rows(path, whole=stored.sha256 is None)
        record_published(path)
        if path.parent.name == "scores" and not _record_scores(paths, shard_index(path)):
            reason = "not of the rollouts that are there"
        else:
            return None
    except (DamagedCopy, DamagedFile):
        reason = "damaged"
    forget_published(path)
    path.unlink(missing_ok=True)
    return f"{name} at {store.url} is {reason}: the run makes it again"


def _check_rows(path: Path, *, whole: bool) -> None:
    """Raise DamagedFile unless the file has the columns of a run and, if ``whole`` is asked for, all can be read."""
    try:
        check_columns(path)
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1_024) if whole else ():
                batch.validate(full=True)
    # the last one is no Exception
    except (OSError, pyarrow.ArrowException, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise DamagedFile(f"{path} cannot be read: {error}. Generate the run again") from None


def _record_scores(paths: RunPaths, index: int) -> bool:
    """Record what the scores of a wave were made from; return whether that is known."""
    scorer = scorer_of_rows(paths.rollouts(index), paths.scores(index))
    if scorer is None:
        return False
    record_published(paths.scores(index), made_from=made_from_scorer(paths, index, *scorer))
    return True
