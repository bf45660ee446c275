"""Read dataset files: JSON lines, JSON, CSV or Parquet, compressed or not, local or remote, one or all that match.

Files are read in blocks, and what a file may hold has limits, since a few megabytes can unpack to more than the memory.
"""

import contextlib
import csv
import glob
import io
import json
import os
import re
import resource
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Self, cast

import polars as pl

from profiles.regular_files import open_regular, parse_json
from tasks.errors import ConfigError, HarvestError
from tasks.storage.filesystems import open_filesystem
from tasks.storage.transfer_errors import redact
from tasks.subprocess_call import call_in_subprocess
from tasks.units import GIB, MIB
from tasks.user_paths import split_pattern

Row = Mapping[str, Any]

FILE_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
"""pyarrow's names of the compressions, by suffix."""
ENCODING = "utf-8-sig"  # spreadsheets export a byte order mark, which would become part of the first column's name

MOST_ROWS = 10_000_000
"""The most rows of a file. Its questions are in memory together."""
LARGEST_ROW = 32 * MIB
"""The most characters of a row, or of a cell of a Parquet file."""
_EXPANSION, _EXPANDED = 100, 256 * MIB
"""A compressed file may unpack to this multiple of its size, and in any case to so many characters."""
_BLOCK = MIB
_BATCH_ROWS = 4096
_CHILD_BYTES = 4 * GIB
"""How much memory a Parquet file may take to read, beside what the libraries take."""


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
        raise ConfigError(f"dataset file {path} does not exist. Check the path")
    else:
        try:
            found = [str(name) for name in directory.glob(pattern)]
        except ValueError as error:
            raise ConfigError(f"the dataset's pattern {path} cannot be used: {error}. Correct it") from None
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


def _rows_of(files: Sequence[Path]) -> Iterator[Row]:
    for number, file in enumerate(files):
        # a process checks as many files as were read before, so that many files need few processes
        if number & (number - 1) == 0:
            _check_parquet(files[number : max(1, 2 * number)])
        yield from _rows(file)


def _rows(path: Path) -> Iterator[Row]:
    import pyarrow

    read = {".jsonl": _json_lines, ".json": _json_array, ".csv": _csv}.get(_suffix(path.name), _parquet)
    try:
        yield from limit_rows(read(path), path)
    except (OSError, UnicodeDecodeError, csv.Error, pyarrow.ArrowException, *_POLARS_ERRORS) as error:
        raise ConfigError(
            f"dataset file {path} cannot be read: {error}. Check that it is a {path.suffix} file"
        ) from error


_POLARS_ERRORS = (pl.exceptions.PolarsError, pl.exceptions.PanicException)  # the second is no Exception


class _Text:
    """The text of a file, compressed or not, with the limits on what it may hold."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._row = 0
        self._total = 0
        self._most: float = float("inf")
        self._raw = open_regular(path)
        compression = COMPRESSIONS.get(path.suffix.lower())
        if compression is None:
            self._file = io.TextIOWrapper(self._raw, encoding=ENCODING, newline="")
            return
        import pyarrow

        self._most = max(_EXPANDED, _EXPANSION * os.fstat(self._raw.fileno()).st_size)
        unpacked = pyarrow.input_stream(self._raw, compression=compression)
        self._file = io.TextIOWrapper(unpacked, encoding=ENCODING, newline="")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
        self._raw.close()

    def read(self, size: int) -> str:
        """Return at most ``size`` characters; none at the end of the file."""
        return self._counted(self._file.read(size))

    def lines(self) -> Iterator[str]:
        """Yield the lines, with their ends. Lines count as one row until ``end_row`` is called."""
        while line := self._counted(self._file.readline(LARGEST_ROW + 1)):
            self._row += len(line)
            if self._row > LARGEST_ROW:
                raise _row_too_large(self._path)
            yield line

    def end_row(self) -> None:
        self._row = 0

    def _counted(self, text: str) -> str:
        self._total += len(text)
        if self._total > self._most:
            raise ConfigError(
                f"dataset file {self._path} unpacks to more than {self._most:,} characters, {_EXPANSION} times its "
                "size. Unpack it, and give the file that comes out of it if that is what it should be"
            )
        return text


def _row_too_large(path: Path) -> ConfigError:
    return ConfigError(
        f"dataset file {path} has a row of more than {LARGEST_ROW:,} characters, the most that a row may have. Remove "
        "the row, and check that the file is what its name says"
    )


def limit_rows(rows: Iterable[Row], path: Path) -> Iterator[Row]:
    """Yield ``rows`` of the file ``path``. Raises ConfigError when there are more than MOST_ROWS."""
    for number, row in enumerate(rows):
        if number == MOST_ROWS:
            raise ConfigError(
                f"dataset file {path} has more than {MOST_ROWS:,} rows, the most that are read. Ask for fewer "
                "--questions, or split the file"
            )
        yield row


def _json_lines(path: Path) -> Iterator[Row]:
    with _Text(path) as text:
        for number, line in enumerate(text.lines(), start=1):
            text.end_row()
            if line.strip():
                yield _json_object(line, f"{path} line {number}")


def _json_object(text: str, where: str) -> Row:
    try:
        value = parse_json(text)
    except ValueError as error:
        raise ConfigError(f"dataset file {where} is not valid JSON: {error}. Fix or remove the line") from None
    if not isinstance(value, dict):
        raise ConfigError(f"dataset file {where} is a {type(value).__name__}, not an object with named columns")
    return value


def _csv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(LARGEST_ROW)
    with _Text(path) as text:
        for row in csv.DictReader(text.lines()):
            text.end_row()
            yield row


def _json_array(path: Path) -> Iterator[Row]:
    with _Text(path) as file:
        yield from _JsonArray(file, path)


class _JsonArray:
    """The objects of a JSON array one by one, so that a large array is never in memory."""

    def __init__(self, file: _Text, path: Path) -> None:
        self._file = file
        self._path = path
        self._text = ""
        self._at = 0

    def __iter__(self) -> Iterator[Row]:
        self._take("[")
        if self._peek() != "]":
            yield self._object()
            while self._peek() == ",":
                self._take(",")
                yield self._object()
        self._take("]")
        self._take("")

    def _peek(self) -> str:
        """Return the next character that is not blank, or "" at the end."""
        while (blank := _BLANK.match(self._text, self._at)) and blank.end() == len(self._text):
            self._text, self._at = self._file.read(_BLOCK), 0
            if not self._text:
                return ""
        self._at = blank.end() if blank else self._at
        return self._text[self._at]

    def _take(self, expected: str) -> None:
        found = self._peek()
        if found != expected and found and expected in ("[", "{"):
            raise ConfigError(
                f"dataset file {self._path} must be a JSON array of objects. For one object a line use .jsonl"
            )
        if found != expected:
            was, wanted = (repr(character) if character else "the end" for character in (found, expected))
            raise self._invalid(f"{was} where {wanted} should be")
        self._at += len(expected)

    def _object(self) -> Row:
        self._take("{")
        self._at -= 1
        while True:
            length = len(self._text) - self._at
            try:
                row, end = _DECODER.raw_decode(self._text, self._at)
                break
            except RecursionError:
                raise self._invalid("it is nested too deeply") from None
            except ValueError as error:
                if length > LARGEST_ROW:
                    raise _row_too_large(self._path) from None
                # the object may go on after what was read; a length that doubles keeps the time linear
                if not (more := self._file.read(max(_BLOCK, length))):
                    raise self._invalid(str(error)) from None
                self._text, self._at = self._text[self._at :] + more, 0
        if end - self._at > LARGEST_ROW:
            raise _row_too_large(self._path)
        self._at = end
        return cast(Row, row)

    def _invalid(self, reason: str) -> ConfigError:
        return ConfigError(f"dataset file {self._path} is not valid JSON: {reason}. For one object a line use .jsonl")


_BLANK = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


def _parquet(path: Path) -> Iterator[Row]:
    with open_regular(path) as file:
        for batch in _batches(file, path):
            yield from pl.DataFrame(pl.from_arrow(batch)).iter_rows(named=True)


def _check_parquet(files: Sequence[Path]) -> None:
    found = [file.absolute() for file in files if _suffix(file.name) == ".parquet" and file.is_file()]
    if new := {file: _identity(file) for file in found if _checked.get(file) != _identity(file)}:
        check_in_process(_read_parquet, *new)
        _checked.update(new)


_checked: dict[Path, tuple[int, ...]] = {}
"""The Parquet files that this process need not check again, and how they were then."""


def _identity(file: Path) -> tuple[int, ...]:
    found = file.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def check_in_process(read: Callable[[Path], None], *files: Path) -> None:
    """Call ``read`` with each of ``files`` in a process of its own, which damaged bytes may end.

    Raises ConfigError when a call raises it, or when the process ends.
    """
    with tempfile.TemporaryDirectory(prefix="harvest-dataset-") as directory:
        try:
            call_in_subprocess(_read_all, "the check of a dataset", Path(directory) / "log", read, files)
        except ConfigError:
            raise
        except HarvestError as error:
            more = f" or one of the {len(files) - 1} after it" if len(files) > 1 else ""
            raise ConfigError(
                f"dataset file {files[0]}{more} cannot be read: {str(error).partition(' (log')[0]}. Check that it is a "
                f"{files[0].suffix} file"
            ) from None


def _read_all(read: Callable[[Path], None], files: Sequence[Path]) -> None:
    for file in files:
        read(file)


def _read_parquet(path: Path) -> None:
    import psutil
    import pyarrow

    _, most = resource.getrlimit(resource.RLIMIT_AS)
    wanted = psutil.Process().memory_info().vms + _CHILD_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most))
    try:
        with open_regular(path) as file:
            rows = 0
            for batch in _batches(file, path):
                rows += batch.num_rows
                if rows > MOST_ROWS:  # nobody will read the others
                    break
    except MemoryError:
        raise ConfigError(
            f"dataset file {path} takes more than {_CHILD_BYTES // GIB} GiB of memory to read, although it is read in "
            "blocks. Write it with smaller row groups and cells"
        ) from None
    except (OSError, pyarrow.ArrowException) as error:
        raise ConfigError(f"dataset file {path} cannot be read: {error}. Check that it is a .parquet file") from None


def _batches(file: BinaryIO, path: Path) -> Iterator[Any]:
    """Yield the rows of a Parquet file as checked record batches of a few megabytes."""
    import pyarrow.compute
    import pyarrow.parquet

    parquet = pyarrow.parquet.ParquetFile(file, buffer_size=_BLOCK, pre_buffer=False)
    groups = [parquet.metadata.row_group(index) for index in range(parquet.num_row_groups)]
    row_bytes = sum(group.total_byte_size for group in groups) // max(1, parquet.metadata.num_rows)
    batch_size = max(1, min(_BATCH_ROWS, _BLOCK * 16 // max(1, row_bytes)))
    for batch in parquet.iter_batches(batch_size=batch_size, use_threads=False):
        batch.validate(full=True)
        for column in batch.columns:
            if pyarrow.types.is_large_string(column.type) or pyarrow.types.is_string(column.type):
                longest = pyarrow.compute.max(pyarrow.compute.binary_length(column)).as_py()
                if (longest or 0) > LARGEST_ROW:
                    raise _row_too_large(path)
        yield batch
