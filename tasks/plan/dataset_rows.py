"""The rows of a dataset, wherever it is: built in, in files here or remote, or anything that ``datasets`` loads."""

import contextlib
import csv
import glob
import io
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, get_args

import polars as pl

from profiles.demo.questions import Split, generate_questions
from tasks.errors import ConfigError
from tasks.plan.run_config import DatasetSource
from tasks.storage.filesystems import open_filesystem
from tasks.storage.transfer_errors import redact

# MERGED from @dataset_files: Files of dataset rows: JSON lines, JSON, CSV or Parquet, compressed or
# not, one or all that match, here or remote.
Row = Mapping[str, Any]

FILE_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
COMPRESSIONS = (".gz", ".bz2", ".zst")
ENCODING = "utf-8-sig"  # a spreadsheet's export may begin with a byte order mark, which would join the first name


def names_files(path: str) -> bool:
    """True when ``path``, a name or a pattern of names, is of files that are read here."""
    return _suffix(path) in FILE_SUFFIXES


def read_files(path: str) -> Iterator[Row]:
    """The rows of the file at ``path``, or of all files that match it as a pattern, in the order of their names.

    Raises ConfigError when there is none, or one cannot be read.
    """
    file = Path(path).expanduser()
    if file.is_file():
        yield from _rows(file)
    elif not glob.has_magic(path):
        raise ConfigError(f"dataset file {path} does not exist. Check the path")
    else:
        found = Path(file.anchor).glob(str(file.relative_to(file.anchor)))
        for match in _some(path, [str(name) for name in found]):
            yield from _rows(Path(match))


def read_remote_files(url: str) -> Iterator[Row]:
    """As ``read_files``, at any URL that fsspec knows; one file at a time is copied here."""
    with remote_dataset(url) as (filesystem, path, directory):
        names = _some(url, filesystem.glob(path)) if glob.has_magic(path) else [path]
        for name in names:
            local = directory / PurePosixPath(name).name
            filesystem.get_file(name, str(local))
            yield from _rows(local)
            local.unlink()


@contextlib.contextmanager
def remote_dataset(url: str) -> Iterator[tuple[Any, str, Path]]:
    """The filesystem of ``url``, the path in it, and a scratch directory; what fails is raised as ConfigError."""
    filesystem, path = open_filesystem(url)
    try:
        with tempfile.TemporaryDirectory(prefix="harvest-dataset-") as directory:
            yield filesystem, path, Path(directory)
    except ConfigError:
        raise
    except Exception as error:  # every protocol has errors of its own
        raise ConfigError(
            redact(f"dataset {url} cannot be read: {type(error).__name__}: {error}. Check the URL and the credentials")
        ) from None


def _some(pattern: str, names: Sequence[str]) -> list[str]:
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


# END MERGED
DEMO_QUESTIONS = 32
_HUB_DEFAULT_CONFIG = {"openai/gsm8k": "main", "gsm8k": "main"}


def open_rows(source: DatasetSource) -> Iterable[Mapping[str, Any]]:
    """The rows of ``source`` in order, as mappings from column to value. Raises ConfigError."""
    if source.path == "demo":
        return _demo_rows(source)
    if "://" in source.path:
        return read_remote_files(source.path) if names_files(source.path) else _remote_directory_rows(source)
    path = Path(source.path).expanduser()
    if path.is_dir():
        return _saved_rows(source, path) if _is_saved(path) else _loaded_rows(source, str(path))
    if names_files(source.path):
        return read_files(source.path)
    if path.exists() or source.path.startswith((".", "/", "~")):
        raise ConfigError(
            f"dataset {source.path} is not a file that can be read; allowed are {', '.join(FILE_SUFFIXES)} files, also "
            f"as {'/'.join(COMPRESSIONS)}, as a pattern such as 'data/*.jsonl' or at a URL such as s3://, dataset "
            'directories, hub ids such as openai/gsm8k, and "demo"'
        )
    return _loaded_rows(source, source.path)


def _demo_rows(source: DatasetSource) -> Iterator[dict[str, Any]]:
    split = next((known for known in get_args(Split) if known == source.split), None)
    if split is None:
        raise ConfigError(f"dataset demo has no split {source.split!r}; it has train and test. Choose one of them")
    count = source.questions or DEMO_QUESTIONS
    for question in generate_questions(count, seed=0, split=split):
        yield {
            "id": question.example_id,
            source.question_column: question.question,
            source.answer_column: question.answer,
        }


def _remote_directory_rows(source: DatasetSource) -> Iterator[Mapping[str, Any]]:
    with remote_dataset(source.path) as (filesystem, path, directory):
        local = directory / "dataset"
        filesystem.get(path.rstrip("/") + "/", f"{local}/", recursive=True)
        yield from _saved_rows(source, local) if _is_saved(local) else _loaded_rows(source, str(local), streaming=True)


def _is_saved(path: Path) -> bool:
    """Whether ``datasets`` wrote this directory by its ``save_to_disk``, which its ``load_dataset`` refuses."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def _saved_rows(source: DatasetSource, path: Path) -> Iterable[Mapping[str, Any]]:
    import datasets

    try:
        saved = datasets.load_from_disk(str(path))
    except Exception as error:  # as many types as files can be damaged in
        raise ConfigError(
            f"dataset {source.path} cannot be read: {type(error).__name__}: {error}. Save it to disk again"
        ) from error
    if isinstance(saved, datasets.Dataset):
        rows: Iterable[Mapping[str, Any]] = saved
    elif source.split in saved:
        rows = saved[source.split]
    else:
        raise ConfigError(
            f"dataset {source.path} has no split {source.split!r}; it has {', '.join(saved)}. Choose one of them"
        )
    return rows


def _loaded_rows(source: DatasetSource, path: str, *, streaming: bool = False) -> Iterable[Mapping[str, Any]]:
    import datasets

    datasets.disable_progress_bars()
    config = source.config or _HUB_DEFAULT_CONFIG.get(path)
    try:
        rows: Iterable[Mapping[str, Any]] = datasets.load_dataset(
            path, config, split=source.split, streaming=streaming or source.streaming
        )
        return rows
    except Exception as error:  # the library raises many unrelated types for a missing or unreachable dataset
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"dataset {source.path} (config {config}, split {source.split}) could not be loaded{offline}: {reason}. "
            f'Give a hub id that exists, a {"/".join(FILE_SUFFIXES)} file, or "demo"'
        ) from error
