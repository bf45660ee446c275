"""Finished rollouts to their journals, and complete shards published: beside the replica, in a process of its own.

Decoding text, packing arrays and writing Parquet are work for Python's interpreter, as the engine's steps are: in a
thread of the replica they took a sixth of its speed from an engine on a GPU. The process is forked before the engine
exists, with the tokenizer that is loaded already, so that it costs neither a start nor much memory.
"""

import contextlib
import gc
import os
import signal
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from tasks.errors import StorageError
from tasks.generation.journal import JournalWriter
from tasks.generation.rollout_frame import EngineFacts, publish_rollouts
from tasks.generation.shard_feed import Decoder, FinishedRollout, GenerationSpec, RolloutWriter, ShardWork
from tasks.parent_death import die_with_parent


@dataclass(frozen=True, kw_only=True)
class Published:
    """A shard whose rollouts are published, ``num_errors`` of them error rows."""

    work: ShardWork
    num_errors: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Open:
    work: ShardWork


@dataclass(frozen=True, kw_only=True, slots=True)
class _Record:
    rollouts: list[tuple[int, FinishedRollout]]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Publish:
    work: ShardWork
    facts: EngineFacts


@dataclass(frozen=True, kw_only=True, slots=True)
class _Recorded:
    """How many rollouts of which shard are in its journal."""

    counts: dict[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Failed:
    storage: bool
    message: str


class Recorder:
    """The process, as the replica sees it. What it does is done in order; its errors are raised by the next call.

    StorageError is raised as such; a RuntimeError tells any other failure, and the end of the process.
    """

    context: Any = get_context("fork")
    """Who has used polars already cannot be forked: the threads that it then has would be missing."""

    def __init__(
        self,
        decoder: Decoder,
        spec: GenerationSpec,
        *,
        most_waiting: int,
        not_for_it: "Connection[Any, Any] | None" = None,
    ) -> None:
        """``most_waiting`` rollouts are on their way at most, so that memory stays bounded.

        ``not_for_it`` is closed in the process: as long as it had it open, the other end would not hear of our end.
        """
        self._connection, theirs = self.context.Pipe()
        self._process = self.context.Process(
            target=_serve,
            args=(theirs, [self._connection, *([not_for_it] if not_for_it else [])], decoder, spec, os.getpid()),
            name="recorder",
            daemon=True,
        )
        self._process.start()
        theirs.close()
        self._most_waiting = most_waiting
        self._num_waiting = self._num_unanswered = 0
        self._recorded: Counter[int] = Counter()
        self._published: list[Published] = []
        self.num_publishing = 0

    @property
    def pid(self) -> int:
        return int(self._process.pid)

    def open(self, work: ShardWork) -> None:
        """Expect rollouts of a shard, whose journal is there already."""
        self._send(_Open(work=work))

    def record(self, rollouts: Sequence[tuple[int, FinishedRollout]]) -> None:
        """Have rollouts, each with the index of its shard, written to the journals of their shards."""
        self._num_waiting += len(rollouts)
        self._send(_Record(rollouts=list(rollouts)))
        while self._num_waiting > self._most_waiting:
            self._take_answer()

    def publish(self, work: ShardWork, facts: EngineFacts) -> None:
        """Have a shard published whose rollouts are all in its journal."""
        self.num_publishing += 1
        self._send(_Publish(work=work, facts=facts))

    def take_recorded(self) -> Counter[int]:
        """How many more rollouts of which shard are in its journal since the last call."""
        self._take_answers()
        recorded, self._recorded = self._recorded, Counter()
        return recorded

    def take_published(self) -> list[Published]:
        """What was published since the last call."""
        self._take_answers()
        published, self._published = self._published, []
        self.num_publishing -= len(published)
        return published

    def drain(self) -> None:
        """Wait until everything is done."""
        while self._num_unanswered:
            self._take_answer()

    def end(self) -> None:
        """End the process now; what was not waited for is lost."""
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _send(self, message: _Open | _Record | _Publish) -> None:
        # answers that nobody reads would stop the process, and its full socket then us
        self._take_answers()
        self._num_unanswered += 1
        with self._alive():
            self._connection.send(message)

    def _take_answers(self) -> None:
        while self._num_unanswered and self._has_answer():
            self._take_answer()

    def _has_answer(self) -> bool:
        with self._alive():
            return bool(self._connection.poll())

    def _take_answer(self) -> None:
        with self._alive():
            answer = self._connection.recv()
        self._num_unanswered -= 1
        match answer:
            case _Recorded(counts=counts):
                self._num_waiting -= sum(counts.values())
                self._recorded.update(counts)
            case Published():
                self._published.append(answer)
            case _Failed(storage=True, message=message):
                raise StorageError(message)
            case _Failed(message=message):
                raise RuntimeError(message)

    @contextlib.contextmanager
    def _alive(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError):
            self._num_unanswered = 0
            self._process.join(1)
            code = self._process.exitcode
            raise RuntimeError(f"the process that records rollouts ended with exit code {code}") from None


def _serve(
    connection: "Connection[Any, Any]",
    others: "list[Connection[Any, Any]]",
    decoder: Decoder,
    spec: GenerationSpec,
    parent_pid: int,
) -> None:
    die_with_parent(parent_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for other in others:
        other.close()
    gc.freeze()
    gc.enable()
    writers: dict[int, RolloutWriter] = {}
    with contextlib.suppress(EOFError, OSError):
        while True:
            connection.send(_answer(connection.recv(), writers, decoder, spec))
    # none of what the fork took over is ours to end
    os._exit(0)


def _answer(
    message: _Open | _Record | _Publish, writers: dict[int, RolloutWriter], decoder: Decoder, spec: GenerationSpec
) -> _Recorded | Published | _Failed:
    try:
        match message:
            case _Open(work=work):
                # its owner, which appends as well, has repaired it
                writers[work.index] = RolloutWriter(JournalWriter(work.journal, repair=False), spec, decoder)
            case _Record(rollouts=rollouts):
                by_shard: dict[int, list[FinishedRollout]] = {}
                for index, rollout in rollouts:
                    by_shard.setdefault(index, []).append(rollout)
                for index, some in by_shard.items():
                    writers[index].write(some)
                return _Recorded(counts={index: len(some) for index, some in by_shard.items()})
            case _Publish(work=work, facts=facts):
                writers.pop(work.index).close()
                return Published(work=work, num_errors=publish_rollouts(work, spec, facts))
    except StorageError as error:
        return _Failed(storage=True, message=str(error))
    except Exception:
        return _Failed(storage=False, message=traceback.format_exc())
    return _Recorded(counts={})
