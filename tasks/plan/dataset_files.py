"""Read dataset files: JSON lines, JSON, CSV or Parquet, compressed or not, local or remote, one or all that match."""

import contextlib
import csv
import glob
import io
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import polars as pl

from tasks.errors import ConfigError
from tasks.storage.filesystems import open_filesystem
from tasks.storage.transfer_errors import redact

Row = Mapping[str, Any]

FILE_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
COMPRESSIONS = (".gz", ".bz2", ".zst")
ENCODING = "utf-8-sig"  # spreadsheets export a byte order mark, which would become part of the first column's name


def is_file_name(path: str) -> bool:
    """Return whether ``path``, a name or a pattern, ends like the files that this module reads."""
    return _suffix(path) in FILE_SUFFIXES


def read_files(path: str) -> Iterator[Row]:
    """Yield the rows of the file ``path``, or of all files that match the pattern ``path``, ordered by name.

    Raises ConfigError when no file matches or a file cannot be read.
    """
    file = Path(path).expanduser()
    if file.is_file():
        yield from _rows(file)
    elif not glob.has_magic(path):
        raise ConfigError(f"dataset file {path} does not exist. Check the path")
    else:
        found = Path(file.anchor).glob(str(file.relative_to(file.anchor)))
        for match in _sorted(path, [str(name) for name in found]):
            yield from _rows(Path(match))


def read_remote_files(url: str) -> Iterator[Row]:
    """Yield rows as ``read_files`` does, from any URL that fsspec knows. Copies one file at a time to this machine."""
    with remote_dataset(url) as (filesystem, path, directory):
        names = _sorted(url, filesystem.glob(path)) if glob.has_magic(path) else [path]
        for name in names:
            local = directory / PurePosixPath(name).name
            filesystem.get_file(name, str(local))
            yield from _rows(local)
            local.unlink()


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
        raise ConfigError(f"no dataset file matches {pattern}. Check the pattern")
    return sorted(names)


def _suffix(path: str) -> str:
    name = PurePosixPath(path)
    return (PurePosixPath(name.stem) if name.suffix.lower() in COMPRESSIONS else name).suffix.lower()


def _rows(path: Path) -> Iterator[Row]:
    try:
        match _suffix(path.name):
            case ".jsonl":
                yield from _json_lines(path)
            case ".json":
                yield from _json_array(path)
            case ".csv":
                with _open_text(path) as file:
                    yield from csv.DictReader(file)
            case _:
                yield from pl.read_parquet(path).iter_rows(named=True)
    except (OSError, UnicodeDecodeError, csv.Error, pl.exceptions.PolarsError) as error:
        raise ConfigError(
            f"dataset file {path} cannot be read: {error}. Check that it is a {path.suffix} file"
        ) from error


def _open_text(path: Path) -> io.TextIOBase:
    if path.suffix.lower() not in COMPRESSIONS:
        return path.open(encoding=ENCODING, newline="")
    import pyarrow

    return io.TextIOWrapper(pyarrow.input_stream(str(path)), encoding=ENCODING, newline="")


def _json_lines(path: Path) -> Iterator[Row]:
    with _open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _json_object(line, f"{path} line {number}")


def _json_object(text: str, where: str) -> Row:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"dataset file {where} is not valid JSON: {error}. Fix or remove the line") from None
    if not isinstance(value, dict):
        raise ConfigError(f"dataset file {where} is a {type(value).__name__}, not an object with named columns")
    return value


def _json_array(path: Path) -> list[Row]:
    try:
        with _open_text(path) as file:
            value = json.loads(file.read())
    except json.JSONDecodeError as error:
        raise ConfigError(f"dataset file {path} is not valid JSON: {error}. For one object a line use .jsonl") from None
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise ConfigError(f"dataset file {path} must be a JSON array of objects. For one object a line use .jsonl")
    return value
