"""Read dataset files: JSON lines, JSON, CSV or Parquet, compressed or not, local or remote, one or all that match.

Files are read in blocks, and what a file may hold has limits, since a few megabytes can unpack to more than the memory.
"""

import contextlib
import csv
import glob
import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import polars as pl

from profiles.nearest import nearest_files
from tasks.errors import ConfigError
from tasks.plain_text import quoted
from tasks.plan.dataset_limits import Row, limit_rows
from tasks.plan.dataset_parquet import check_parquet, parquet_rows
from tasks.plan.dataset_text import COMPRESSIONS, check_unpacked, csv_rows, json_array, json_lines
from tasks.storage.filesystems import open_filesystem
from tasks.storage.transfer_errors import redact
from tasks.user_paths import split_pattern

MOST_FILES = 100_000
"""The most files and directories below a dataset's directory."""
_READERS = {".jsonl": json_lines, ".json": json_array, ".csv": csv_rows, ".parquet": parquet_rows}
FILE_SUFFIXES = tuple(_READERS)


def is_file_name(path: str) -> bool:
    """Return whether ``path``, a name or a pattern, ends like the files that this module reads."""
    return _suffix(path) in FILE_SUFFIXES


def read_files(path: str) -> Iterator[Row]:
    """Yield the rows of the file ``path``, or of all files that match the pattern ``path``, ordered by name.

    Raises ConfigError when no file matches or a file cannot be read.
    """
    directory, pattern = split_pattern(path)
    if not pattern:
        yield from _rows_of([directory])
    elif not glob.has_magic(pattern):
        raise ConfigError(f"dataset file {path} does not exist.{nearest_files(directory / pattern)} Check the path")
    else:
        try:
            found = [str(name) for name in directory.glob(pattern)]
        except ValueError as error:
            raise ConfigError(f"the dataset's pattern {quoted(path)} cannot be used: {error}. Correct it") from None
        yield from _rows_of([Path(match) for match in _sorted(path, found)])


def read_remote_files(url: str) -> Iterator[Row]:
    """Yield rows as ``read_files`` does, from any URL that fsspec knows. Copies one file at a time to this machine."""
    with remote_dataset(url) as (filesystem, path, directory):
        is_pattern = glob.has_magic(path) and not filesystem.isfile(path)
        names = _sorted(url, filesystem.glob(path)) if is_pattern else [path]
        if "file" in filesystem.protocol:
            yield from _rows_of([Path(name) for name in names])
            return
        for name in names:
            local = directory / PurePosixPath(name).name
            filesystem.get_file(name, str(local))
            yield from _rows_of([local])
            local.unlink()


def check_files_below(directory: Path) -> None:
    """Raise ConfigError for a file below ``directory`` that no library should read.

    That is a pipe, a socket or a device, which has no end, and a file that unpacks to far more than its size. The
    library ``datasets`` reads directories, and has no such limits.
    """
    try:
        found = list(islice(directory.rglob("*"), MOST_FILES + 1))
        files = sorted(path for path in found if path.exists() and not path.is_dir())
    except OSError as error:
        raise ConfigError(f"dataset {directory} cannot be read: {error}. Give a directory of data files") from None
    if len(found) > MOST_FILES:
        raise ConfigError(
            f"dataset {directory} holds more than {MOST_FILES:,} files and directories. Give a directory of data files"
        )
    for path in files:
        if not path.is_file():
            raise ConfigError(f"dataset {directory} holds {path.relative_to(directory)}, which is no file. Remove it")
        check_unpacked(path)
    check_parquet([path for path in files if path.suffix.lower() == ".parquet"])


@contextlib.contextmanager
def remote_dataset(url: str) -> Iterator[tuple[Any, str, Path]]:
    """Yield the filesystem of ``url``, the path in it, and a scratch directory. Raises every error as ConfigError."""
    filesystem, path = open_filesystem(url)
    try:
        with tempfile.TemporaryDirectory(prefix="harvest-dataset-") as directory:
            yield filesystem, path, Path(directory)
    except ConfigError:
        raise
    except Exception as error:  # every protocol has its own error types
        raise ConfigError(
            redact(f"dataset {url} cannot be read: {type(error).__name__}: {error}. Check the URL and the credentials")
        ) from None


def _sorted(pattern: str, names: Sequence[str]) -> list[str]:
    if not names:
        raise ConfigError(f"no dataset file matches {quoted(pattern)}. Check the pattern")
    return sorted(names)


def _suffix(path: str) -> str:
    name = PurePosixPath(path)
    return (PurePosixPath(name.stem) if name.suffix.lower() in COMPRESSIONS else name).suffix.lower()


def _rows_of(files: Sequence[Path]) -> Iterator[Row]:
    for number, file in enumerate(files):
        # a process checks as many files as were read before, so that many files need few processes
        if number & (number - 1) == 0:
            batch = files[number : max(1, 2 * number)]
            check_parquet([each for each in batch if _suffix(each.name) == ".parquet" and each.is_file()])
        yield from _rows(file)


def _rows(path: Path) -> Iterator[Row]:
    import pyarrow

    read = _READERS.get(_suffix(path.name), parquet_rows)
    try:
        yield from limit_rows(read(path), path)
    except UnicodeDecodeError as error:
        raise ConfigError(f"dataset file {path} cannot be read: {error}. Save it as UTF-8") from None
    except (OSError, csv.Error, pyarrow.ArrowException, *_POLARS_ERRORS) as error:
        raise ConfigError(
            f"dataset file {path} cannot be read: {error}. Check that it is a {path.suffix} file"
        ) from error


_POLARS_ERRORS = (pl.exceptions.PolarsError, pl.exceptions.PanicException)  # the second is no Exception
