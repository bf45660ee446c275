"""Reads a dataset file of text, compressed or not: JSON lines, a JSON array or CSV. What it may hold has limits."""

import contextlib
import csv
import io
import json
import lzma
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Self

from profiles.regular_files import RepeatedName, open_regular, unique_members
from tasks.errors import ConfigError
from tasks.plain_text import shortened
from tasks.plan.dataset_limits import LARGEST_ROW, Row, row_too_large
from tasks.units import MIB

COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
"""pyarrow's names of the compressions, by suffix."""
_ARCHIVES = {*COMPRESSIONS, ".xz", ".zip"}
"""What the library ``datasets`` unpacks in a directory."""
ENCODING = "utf-8-sig"  # spreadsheets export a byte order mark, which would become part of the first column's name

_EXPANSION, _EXPANDED = 100, 256 * MIB
"""A compressed file may unpack to this multiple of its size, and in any case to so many characters."""
_BLOCK = MIB


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

        self._most = _most_unpacked(self._raw)
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
                raise row_too_large(self._path)
            yield line

    def end_row(self) -> None:
        self._row = 0

    def _counted(self, text: str) -> str:
        self._total += len(text)
        if self._total > self._most:
            raise _unpacks_to_too_much(self._path, self._most)
        return text


def check_unpacked(path: Path) -> None:
    """Raise ConfigError when ``path`` is compressed, and unpacks to more than a dataset file may.

    What cannot be unpacked passes: whoever reads it says what is wrong.
    """
    import pyarrow

    suffix = path.suffix.lower()
    if suffix not in _ARCHIVES:
        return
    total = 0
    with open_regular(path) as raw, contextlib.suppress(EOFError, OSError, *_UNPACKING_ERRORS, pyarrow.ArrowException):
        most = _most_unpacked(raw)
        if suffix == ".zip":
            total = sum(member.file_size for member in zipfile.ZipFile(raw).infolist())
        else:
            with lzma.open(raw) if suffix == ".xz" else pyarrow.input_stream(raw, COMPRESSIONS[suffix]) as unpacked:
                while total <= most and (block := unpacked.read(_BLOCK)):
                    total += len(block)
        if total > most:
            raise _unpacks_to_too_much(path, most)


_UNPACKING_ERRORS = (lzma.LZMAError, zipfile.BadZipFile)


def _most_unpacked(raw: BinaryIO) -> int:
    return max(_EXPANDED, _EXPANSION * os.fstat(raw.fileno()).st_size)


def _unpacks_to_too_much(path: Path, most: float) -> ConfigError:
    return ConfigError(
        f"dataset file {path} unpacks to more than {most:,} characters, {_EXPANSION} times its size. Unpack it, and "
        "give the file that comes out of it if that is what it should be"
    )


def json_lines(path: Path) -> Iterator[Row]:
    """Yield the objects of a file with one on each line. Raises ConfigError, OSError and UnicodeDecodeError."""
    with _Text(path) as text:
        for number, line in enumerate(text.lines(), start=1):
            text.end_row()
            if line.strip():
                yield _json_object(line, f"{path} line {number}")


def _json_object(text: str, where: str) -> Row:
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise ConfigError(
            f"dataset file {where} is not valid JSON: it is nested too deeply. Fix or remove the line"
        ) from None
    except ValueError as error:
        raise ConfigError(f"dataset file {where} is not valid JSON: {error}. Fix or remove the line") from None
    if not isinstance(value, dict):
        raise ConfigError(f"dataset file {where} is a {type(value).__name__}, not an object with named columns")
    return _checked_text(value, text, where)


def _checked_text(row: Row, text: str, where: str) -> Row:
    """Return ``row``, which was read from ``text``. Raises ConfigError for a text that UTF-8 cannot hold."""
    if _ESCAPED_SURROGATE.search(text):
        for column, value in row.items():
            shown = json.dumps({column: value}, ensure_ascii=False)
            if shown != (legible := shown.encode(errors="backslashreplace").decode()):
                raise ConfigError(
                    f"dataset file {where}: {shortened(legible, 80)} holds half a surrogate pair, which is no "
                    "character. Fix or remove the row"
                )
    return row


def csv_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a CSV file under its header. Raises ConfigError, OSError, UnicodeDecodeError and csv.Error."""
    csv.field_size_limit(LARGEST_ROW)
    with _Text(path) as text:
        rows = csv.reader(text.lines(), strict=True)  # otherwise a quote that is never closed takes the rows after it
        columns = next((row for row in rows if row), [])
        if repeated := [name for name in columns if name and columns.count(name) > 1]:
            raise ConfigError(f"dataset file {path} has the column {repeated[0]!r} twice. Rename or remove one")
        for row in rows:
            text.end_row()
            if not any(field.strip() for field in row):
                continue  # spreadsheets export rows without content
            if len(row) != len(columns):
                raise ConfigError(
                    f"dataset file {path} line {rows.line_num} has {len(row)} fields, and the header {len(columns)} "
                    f"columns. {_QUOTES}"
                )
            # pandas leaves the column of its index, the first one, without a name
            for name, field in zip(columns[1:], row[1:], strict=True):
                if not name and field.strip():
                    raise ConfigError(
                        f"dataset file {path} line {rows.line_num} has {shortened(field, 40)!r} in a column without a "
                        f"name. Name the column. {_QUOTES}"
                    )
            yield dict(zip(columns, row, strict=True))


_QUOTES = "A field with a comma, such as 1,000, needs double quotes around it"


def json_array(path: Path) -> Iterator[Row]:
    """Yield the objects of a JSON array. Raises ConfigError, OSError and UnicodeDecodeError."""
    with _Text(path) as file:
        yield from _JsonArray(file, path)


class _JsonArray:
    """The objects of a JSON array one by one, so that a large array is never in memory."""

    def __init__(self, file: _Text, path: Path) -> None:
        self._file = file
        self._path = path
        self._text = ""
        self._at = 0
        self._row = -1

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
            except RepeatedName as error:
                raise self._invalid(str(error)) from None
            except ValueError as error:
                if length > LARGEST_ROW:
                    raise row_too_large(self._path) from None
                # the object may go on after what was read; a length that doubles keeps the time linear
                if not (more := self._file.read(max(_BLOCK, length))):
                    raise self._invalid(str(error)) from None
                self._text, self._at = self._text[self._at :] + more, 0
        if end - self._at > LARGEST_ROW:
            raise row_too_large(self._path)
        text, self._at = self._text[self._at : end], end
        self._row += 1
        return _checked_text(row, text, f"{self._path} row {self._row}")

    def _invalid(self, reason: str) -> ConfigError:
        return ConfigError(f"dataset file {self._path} is not valid JSON: {reason}. For one object a line use .jsonl")


_BLANK = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder(object_pairs_hook=unique_members)
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
