"""Read the rows of a dataset: the demo, local or remote files, or anything that the library ``datasets`` loads."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from profiles.demo.questions import Split, generate_questions
from tasks.errors import ConfigError
from tasks.plain_text import one_line
from tasks.plan.dataset_files import (
    FILE_SUFFIXES,
    check_files_below,
    is_file_name,
    read_files,
    read_remote_files,
    remote_dataset,
)
from tasks.plan.dataset_text import COMPRESSIONS
from tasks.plan.run_config import DatasetSource
from tasks.user_paths import is_url, user_path

DEMO_QUESTIONS = 32
_READ_AS_PATTERN = re.compile(r"[*?\[\]\n]|::")
"""What the library ``datasets`` does not take literally in the path of a directory."""
_HUB_DEFAULT_CONFIG = {"openai/gsm8k": "main", "gsm8k": "main"}


def open_rows(source: DatasetSource) -> Iterable[Mapping[str, Any]]:
    """Return the rows of ``source`` in order, each a mapping from column to value. Raises ConfigError."""
    if source.path == "demo":
        return _demo_rows(source)
    if is_url(source.path):
        return read_remote_files(source.path) if is_file_name(source.path) else _remote_directory_rows(source)
    path = user_path(source.path)
    if path.is_dir():
        check_files_below(path)
        return _saved_rows(source, path) if _is_saved(path) else _directory_rows(source, path)
    if is_file_name(source.path):
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
        check_files_below(local)
        yield from _saved_rows(source, local) if _is_saved(local) else _loaded_rows(source, str(local), streaming=True)


def _is_saved(path: Path) -> bool:
    """Return whether ``save_to_disk`` of ``datasets`` wrote this directory, which ``load_dataset`` does not read."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def _directory_rows(source: DatasetSource, path: Path) -> Iterable[Mapping[str, Any]]:
    if not _READ_AS_PATTERN.search(str(path)):
        return _loaded_rows(source, str(path))
    return _linked_rows(source, path)


def _linked_rows(source: DatasetSource, path: Path) -> Iterator[Mapping[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="harvest-dataset-") as directory:
        # the library follows a link to the directory itself, and then reads the name of its target as a pattern
        links = shutil.copytree(path.absolute(), Path(directory, "dataset"), copy_function=os.symlink)
        yield from _loaded_rows(source, str(links))


def _saved_rows(source: DatasetSource, path: Path) -> Iterable[Mapping[str, Any]]:
    import datasets

    try:
        saved = datasets.load_from_disk(str(path))
    except Exception as error:  # the library raises many types for a damaged file
        raise ConfigError(
            f"dataset {source.path} cannot be read: {type(error).__name__}: {error}. Save it to disk again"
        ) from error
    if isinstance(saved, datasets.Dataset):
        return _read(saved, source)
    if source.split in saved:
        return _read(saved[source.split], source)
    raise ConfigError(
        f"dataset {source.path} has no split {source.split!r}; it has {', '.join(saved)}. Choose one of them"
    )


def _read(rows: Iterable[Mapping[str, Any]], source: DatasetSource) -> Iterator[Mapping[str, Any]]:
    try:
        yield from rows
    except Exception as error:  # what is streamed is parsed only now
        reason = one_line(str(error), 500)
        raise ConfigError(
            f"dataset {source.path} cannot be read: {type(error).__name__}: {reason}. Correct the file, or remove it"
        ) from error


def _loaded_rows(source: DatasetSource, path: str, *, streaming: bool = False) -> Iterable[Mapping[str, Any]]:
    import datasets

    datasets.disable_progress_bars()
    config = source.config or _HUB_DEFAULT_CONFIG.get(path)
    try:
        return _read(
            datasets.load_dataset(path, config, split=source.split, streaming=streaming or source.streaming), source
        )
    except Exception as error:  # the library raises many unrelated types for a missing or unreachable dataset
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"dataset {source.path} (config {config}, split {source.split}) could not be loaded{offline}: {reason}. "
            f'Give a hub id that exists, a {"/".join(FILE_SUFFIXES)} file, or "demo"'
        ) from error
