"""Publish files of a run by an atomic rename, and read them as typed records.

A reader sees a whole file or none. A writer that is killed leaves a temporary file ``.NAME.TOKEN.PID.tmp``, which
``remove_stale_temporaries`` removes.
"""

import contextlib
import errno
import functools
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import polars as pl
import xxhash

from profiles.regular_files import open_regular, parse_json, read_regular
from tasks.errors import DamagedFile, DamagedRecord, StorageError

logger = logging.getLogger(__name__)

Record = TypeVar("Record")

DISK_FLOOR = 1 << 30
"""How many bytes stay free on every disk that a run writes to."""

DAMAGED = ".damaged"
"""Ends the name of a file that was set aside. No such file is counted, uploaded or exported."""

RECORD_BYTES = 256 << 20
"""Far more than the largest JSON file of a run has."""

_TEMPORARY = re.compile(r"^\..+\.(\d+)\.tmp$")


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write; publish it as ``path`` on a clean exit, remove it on an error.

    Raises StorageError when the disk is full or the file may not be written.
    """
    # the token is for threads of one process that write the same file, as uploads of two shards to a directory do
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
        _sync_directory(path.parent)
    except OSError as error:
        _remove_quietly(temporary)
        raise _storage_error(path, error) from error
    except BaseException as error:
        _remove_quietly(temporary)
        if _is_disk_full(error):
            raise _storage_error(path, error) from error
        raise


Publish = Callable[[Path], contextlib.AbstractContextManager[Path]]
"""``atomic_path``, or a function that does more with the published file."""


def publish_parquet(frame: pl.DataFrame, path: Path, publish: Publish = atomic_path) -> None:
    """Write ``frame`` as zstd Parquet and publish it at ``path``."""
    with publish(path) as temporary:
        frame.write_parquet(temporary, compression="zstd", statistics=True)


def publish_json(value: Any, path: Path, publish: Publish = atomic_path) -> None:
    """Write ``value`` as indented JSON and publish it at ``path``."""
    publish_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", path, publish)


def publish_text(text: str, path: Path, publish: Publish = atomic_path) -> None:
    """Write ``text`` as UTF-8 and publish it at ``path``."""
    with publish(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: Path) -> Any:
    """Return the JSON value in the file, or None when there is no file that can be read as JSON."""
    try:
        return parse_json(read_regular(path, RECORD_BYTES).decode("utf-8"))
    except (OSError, ValueError):
        return None


def read_record(path: Path, kind: type[Record]) -> Record | None:
    """Return the record in the JSON file, of the frozen dataclass ``kind``; None when there is no file.

    Raises DamagedFile when the file does not hold such a record.
    """
    try:
        return parse_record(read_regular(path, RECORD_BYTES), kind)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DamagedRecord(path, error.strerror or str(error)) from None
    except ValueError as error:
        raise DamagedRecord(path, str(error)) from None


def try_read_record(path: Path, kind: type[Record]) -> Record | None:
    """Return the record in the JSON file as ``read_record`` does; logs a damaged file, once, and returns None."""
    try:
        return read_record(path, kind)
    except DamagedFile as error:
        _warn_once(str(error))
        return None


@functools.lru_cache(maxsize=64)
def _warn_once(message: str) -> None:
    logger.warning("%s", message)


def set_aside(path: Path) -> Path:
    """Rename what is at ``path`` to ``NAME.damaged``, in place of an earlier one, and return the new path.

    Raises StorageError when it cannot be renamed.
    """
    aside = path.with_name(path.name + DAMAGED)
    try:
        # a file and a directory do not replace each other
        if aside.is_dir() and not aside.is_symlink():
            shutil.rmtree(aside)
        elif path.is_dir():
            aside.unlink(missing_ok=True)
        path.replace(aside)
    except OSError as error:
        raise StorageError(
            f"{path} is damaged and cannot be renamed to {aside.name}: {error.strerror}. Move it away"
        ) from error
    return aside


def parse_record(data: bytes, kind: type[Record]) -> Record:
    """Return the record in the JSON text ``data``, of the frozen dataclass ``kind``; unknown keys are ignored.

    Raises ValueError, which says on one line what is wrong with the first wrong field.
    """
    from pydantic import ValidationError

    try:
        found: Record = _adapter(kind).validate_json(data)  # type: ignore[arg-type]  # a type is hashable
        return found
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise ValueError(f"{field}: {first['msg']}" if field else first["msg"]) from None


@functools.cache
def _adapter(kind: Hashable) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)  # type: ignore[arg-type]  # only types come here


def sha256_file(path: Path) -> str:
    """Return the hex sha256 of the regular file's bytes. Raises OSError."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def xxh3_file(path: Path) -> str:
    """Return the hex XXH3 (128 bits) of the regular file's bytes. Raises OSError.

    It takes about a tenth of the time of ``sha256_file`` and finds the same accidental damage. It stops no forgery.
    """
    with open_regular(path) as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()


def sha256_of(path: Path) -> str:
    """Return the hex sha256 of the file at ``path``; it is read once per process, and again when it has changed."""
    return _hash_of(path, sha256_file)


def xxh3_of(path: Path) -> str:
    """Return the hex XXH3 of the file at ``path``; it is read once per process, and again when it has changed."""
    return _hash_of(path, xxh3_file)


def remember_sha256(path: Path, status: os.stat_result, sha256: str) -> None:
    """Note the hash of the file at ``path``, so that ``sha256_of`` need not read it while it has this ``status``."""
    _hashes[path, sha256_file] = (file_identity(status), sha256)


def file_identity(status: os.stat_result) -> tuple[int, int, int, int]:
    """Return what changes when other bytes take the place of a file."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


_hashes: dict[tuple[Path, Callable[[Path], str]], tuple[tuple[int, int, int, int], str]] = {}


def _hash_of(path: Path, hash_file: Callable[[Path], str]) -> str:
    identity = file_identity(path.stat())
    known = _hashes.get((path, hash_file))
    if known is None or known[0] != identity:
        known = _hashes[path, hash_file] = (identity, hash_file(path))
    return known[1]


def is_temporary(path: Path) -> bool:
    """Return whether ``path`` is a temporary file of ``atomic_path``."""
    return _TEMPORARY.match(path.name) is not None


def remove_stale_temporaries(directory: Path) -> None:
    """Remove the temporary files below ``directory`` whose writer has ended."""
    for path in directory.rglob(".*.tmp"):
        match = _TEMPORARY.match(path.name)
        if match and not Path(f"/proc/{match.group(1)}").exists():
            _remove_quietly(path)


def nearest_existing(path: Path) -> Path:
    """Return ``path`` if it exists, else its nearest parent directory that does."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_quietly(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _is_disk_full(error: BaseException) -> bool:
    # for a failed write polars raises its own error type, whose text holds the system's message
    text = str(error)
    return isinstance(error, Exception) and any(
        os.strerror(code) in text for code in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
    )


def _storage_error(path: Path, error: BaseException) -> StorageError:
    return StorageError(f"could not write {path}: {error}. Free space or fix permissions, then run the same command")
