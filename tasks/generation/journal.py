"""Reads and writes the journal of a shard in progress: the questions that the engine got, and every finished rollout.

Records are only appended. One record is one line, ``crc32 json``. A kill or a full disk can tear a record: it then
fails its checksum, is skipped, and its rollout is generated again. Token arrays are base64 of little-endian int32 and
float32.
"""

import base64
import contextlib
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import orjson

from profiles.regular_files import parse_json
from tasks.errors import StorageError

Key = tuple[str, str, int]
"""(example_id, arm_id, sample_index)"""
QUARANTINE = 3
"""Suspicion of a rollout that was in flight at a crash, and alone in the engine at a later crash."""


@dataclass(kw_only=True)
class JournalState:
    """The contents of a journal. ``in_flight`` and ``num_completed`` count from its latest "open" record."""

    finished: dict[Key, dict[str, Any]] = field(default_factory=dict)
    suspicion: dict[Key, int] = field(default_factory=dict)
    """For each rollout, what the engine held at its latest crash: 1 means other questions too, 2 only rollouts of the
    same question, QUARANTINE only this rollout. Rollouts that no crash hit are missing."""
    in_flight: dict[Key, int] = field(default_factory=dict)
    """The isolation of each rollout that the engine got and has not finished."""
    num_completed: int = 0
    """Rollouts without an error."""


def read_journal(path: Path, run_id: str | None = None, *, keep_rollouts: bool = True) -> JournalState:
    """Read the journal at ``path``. A missing file counts as empty; damaged records are skipped.

    With ``run_id``, so are records of other runs: there the same question and arm give another rollout.
    Without ``keep_rollouts``, the records in ``finished`` are empty, which saves memory.
    """
    state = JournalState()
    in_flight = state.in_flight
    for record in _own_records(path, run_id):
        match record["kind"]:
            case "open":
                in_flight.clear()
                state.num_completed = 0
            case "admit":
                for arm_id, sample_index in record["rollouts"]:
                    in_flight[(record["example_id"], arm_id, sample_index)] = record["isolation"]
            case "crash":
                # engines that share a GPU may die of each other's requests
                alone = len(in_flight) == 1 and not record.get("together")
                for key, isolation in in_flight.items():
                    # only a rollout that was alone is guilty: others may have finished without being recorded yet
                    state.suspicion[key] = QUARANTINE if isolation and alone else min(isolation + 1, QUARANTINE - 1)
                in_flight.clear()
            case "rollout":
                key = (record["example_id"], record["arm_id"], record["sample_index"])
                in_flight.pop(key, None)
                state.num_completed += "error" not in record
                # the first record of a rollout counts, so that a second one changes nothing
                state.finished.setdefault(key, record if keep_rollouts else {})
    return state


class JournalWriter:
    """Appends records. When ``append`` returns, the kernel has them, so they survive the end of this process."""

    def __init__(self, path: Path, *, repair: bool = True) -> None:
        """``repair`` drops a torn last record; it must be False while another process appends to the journal."""
        self._path = path
        with self._storage():
            path.parent.mkdir(parents=True, exist_ok=True)
            if repair:
                _drop_torn_tail(path)
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def append(self, *records: dict[str, Any]) -> None:
        """Write all ``records`` at once. Raises StorageError when the disk refuses; a torn record is skipped later."""
        lines = b"".join(map(_line, records))
        with self._storage():
            # after a short write, the next write fails with the reason
            while lines:
                lines = lines[os.write(self._file, lines) :]

    def close(self) -> None:
        os.close(self._file)

    def __enter__(self) -> "JournalWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def _storage(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"could not write {self._path}: {error}. Free space or fix permissions, then run the same command"
            ) from error


def pack(values: Sequence[Any] | np.ndarray[Any, Any], dtype: str) -> str:
    """Return ``values`` as base64 of a flat little-endian array of ``dtype`` ("i4", "u2" or "f4")."""
    return base64.b64encode(np.asarray(values, dtype=f"<{dtype}").tobytes()).decode("ascii")


def unpack(text: str, dtype: str) -> np.ndarray[Any, Any]:
    """Return the flat array that ``pack`` encoded."""
    return np.frombuffer(base64.b64decode(text), dtype=f"<{dtype}")


def _line(record: dict[str, Any]) -> bytes:
    try:
        text = orjson.dumps(record)
    except TypeError:
        # orjson refuses half of a surrogate pair, which strict UTF-8 cannot encode
        text = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _own_records(path: Path, run_id: str | None) -> Iterator[dict[str, Any]]:
    is_own = True
    for record in _records(path):
        if run_id is not None and record["kind"] == "open":
            is_own = record.get("run_id", run_id) == run_id
        if is_own:
            yield record


def _records(path: Path) -> Iterator[dict[str, Any]]:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        for line in file:
            if (record := _parse(line)) is not None:
                yield record


def _parse(line: bytes) -> dict[str, Any] | None:
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    try:
        if not line.endswith(b"\n") or int(checksum, 16) != zlib.crc32(text):
            return None
        record = parse_json(text.decode("utf-8", "surrogatepass"))
    except ValueError:
        return None
    return record if isinstance(record, dict) and "kind" in record else None


def _drop_torn_tail(path: Path) -> None:
    # the next record must start on a new line
    try:
        with path.open("rb+") as file:
            end = file.seek(0, os.SEEK_END)
            while end > 0:
                start = max(0, end - 65536)
                file.seek(start)
                newline = file.read(end - start).rfind(b"\n")
                if newline >= 0:
                    end = start + newline + 1
                    break
                end = start
            file.truncate(end)
    except FileNotFoundError:
        return


def record_crash(path: Path, run_id: str, *, together: bool) -> JournalState:
    """Record in the journal that its engine crashed, ``together`` with others on its GPU or alone.

    Return the state until then. Raises StorageError.
    """
    state = read_journal(path, run_id, keep_rollouts=False)
    with JournalWriter(path) as journal:
        journal.append({"kind": "crash"} | ({"together": True} if together else {}))
    return state
