"""The rows of a dataset, wherever it is: built in, a file here or in a bucket, or anything that ``datasets`` loads."""

import csv
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, get_args

import polars as pl

from profiles.demo.questions import Split, generate_questions
from tasks.errors import ConfigError
from tasks.remote import open_filesystem
from tasks.remote_errors import redact
from tasks.run_config import DatasetSource

FILE_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
ENCODING = "utf-8-sig"  # a spreadsheet's export may begin with a byte order mark, which would join the first name
DEMO_QUESTIONS = 32
_HUB_DEFAULT_CONFIG = {"openai/gsm8k": "main", "gsm8k": "main"}


def open_rows(source: DatasetSource) -> Iterable[Mapping[str, Any]]:
    """The rows of ``source`` in order, as mappings from column to value. Raises ConfigError."""
    return _demo_rows(source) if source.path == "demo" else _open_rows(source)


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


def _open_rows(source: DatasetSource) -> Iterable[Mapping[str, Any]]:
    if "://" in source.path and PurePosixPath(source.path).suffix.lower() in FILE_SUFFIXES:
        return _remote_rows(source.path)
    path = Path(source.path).expanduser()
    if path.is_dir():
        return _hub_rows(source)
    if path.suffix.lower() in FILE_SUFFIXES:
        if not path.is_file():
            raise ConfigError(f"dataset file {source.path} does not exist. Check the path")
        return _file_rows(path)
    if path.exists() or source.path.startswith((".", "/", "~")):
        raise ConfigError(
            f"dataset {source.path} is not a file that can be read; allowed are {', '.join(FILE_SUFFIXES)} files here "
            'or at an s3:// URL, dataset directories, hub ids such as openai/gsm8k, and "demo"'
        )
    return _hub_rows(source)


def _remote_rows(url: str) -> Iterator[Mapping[str, Any]]:
    filesystem, path = open_filesystem(url)
    with tempfile.TemporaryDirectory(prefix="harvest-dataset-") as directory:
        local = Path(directory) / PurePosixPath(path).name
        try:
            filesystem.get_file(path, str(local))
        except Exception as error:  # every protocol has errors of its own
            raise ConfigError(
                redact(
                    f"dataset {url} cannot be read: {type(error).__name__}: {error}. Check the URL and the credentials"
                )
            ) from None
        yield from _file_rows(local)


def _file_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        match path.suffix.lower():
            case ".jsonl":
                yield from _json_lines(path)
            case ".json":
                yield from _json_array(path)
            case ".csv":
                yield from _csv_rows(path)
            case _:
                yield from pl.read_parquet(path).iter_rows(named=True)
    except (OSError, UnicodeDecodeError, csv.Error, pl.exceptions.PolarsError) as error:
        raise ConfigError(
            f"dataset file {path} cannot be read: {error}. Check that it is a {path.suffix} file"
        ) from error


def _json_lines(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding=ENCODING) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            yield _json_object(line, f"{path} line {number}")


def _json_object(text: str, where: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"dataset file {where} is not valid JSON: {error}. Fix or remove the line") from None
    if not isinstance(value, dict):
        raise ConfigError(f"dataset file {where} is a {type(value).__name__}, not an object with named columns")
    return value


def _json_array(path: Path) -> list[Mapping[str, Any]]:
    try:
        value = json.loads(path.read_text(encoding=ENCODING))
    except json.JSONDecodeError as error:
        raise ConfigError(f"dataset file {path} is not valid JSON: {error}. For one object a line use .jsonl") from None
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise ConfigError(f"dataset file {path} must be a JSON array of objects. For one object a line use .jsonl")
    return value


def _csv_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding=ENCODING, newline="") as file:
        yield from csv.DictReader(file)


def _hub_rows(source: DatasetSource) -> Iterable[Mapping[str, Any]]:
    import datasets

    datasets.disable_progress_bars()
    config = source.config or _HUB_DEFAULT_CONFIG.get(source.path)
    try:
        rows: Iterable[Mapping[str, Any]] = datasets.load_dataset(
            source.path, config, split=source.split, streaming=source.streaming
        )
        return rows
    except Exception as error:  # the library raises many unrelated types for a missing or unreachable dataset
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"dataset {source.path} (config {config}, split {source.split}) could not be loaded{offline}: {reason}. "
            f'Give a hub id that exists, a {"/".join(FILE_SUFFIXES)} file, or "demo"'
        ) from error
