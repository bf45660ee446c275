"""Writes finished rollouts to their journals and publishes complete shards, in a process beside the replica.

This work needs Python's interpreter, and so do the engine's steps: in a thread of the replica it slowed an engine on a
GPU down by a sixth. The process is forked with the loaded tokenizer before the engine exists, so that it starts at once
and takes little memory.
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
from tasks.generation.generation_spec import GenerationSpec, ShardKey, ShardWork
from tasks.generation.journal import JournalWriter
from tasks.generation.rollout_frame import EngineFacts, publish_rollouts
from tasks.generation.rollout_writer import Decoder, FinishedRollout, RolloutWriter
from tasks.parent_death import die_with_parent
from tasks.time_limits import time_limit

EXIT_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Published:
    """A shard whose rollouts are published; ``num_errors`` of them are error rows."""

    work: ShardWork
    num_errors: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Open:
    work: ShardWork


@dataclass(frozen=True, kw_only=True, slots=True)
class _Record:
    rollouts: list[tuple[ShardKey, FinishedRollout]]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Publish:
    work: ShardWork
    facts: EngineFacts


@dataclass(frozen=True, kw_only=True, slots=True)
class _Recorded:
    """How many rollouts were just written to journals, by shard."""

    counts: dict[ShardKey, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Failed:
    storage: bool
    message: str


class Recorder:
    """The replica's handle on the process. A call only queues work; the process does it in order.

    A later call raises the error of the process: a StorageError as it is, any other error as a RuntimeError. When the
    process has ended, a later call raises a RuntimeError too.
    """

    context: Any = get_context("fork")
    """A fork is safe only before Polars is used: its threads would be missing in the forked process."""

    def __init__(
        self,
        decoder: Decoder,
        spec: GenerationSpec,
        *,
        max_unrecorded: int,
        close_in_child: "Connection[Any, Any] | None" = None,
    ) -> None:
        """Start the process. It queues at most ``max_unrecorded`` rollouts, so that memory stays bounded.

        The process closes its copy of ``close_in_child``, the connection to the replica's parent: while a copy is open,
        the parent does not notice that the replica has ended.
        """
        self.connection, theirs = self.context.Pipe()
        self._process = self.context.Process(
            target=_run,
            args=(
                theirs,
                [self.connection, *([close_in_child] if close_in_child else [])],
                decoder,
                spec,
                os.getpid(),
            ),
            name="recorder",
            daemon=True,
        )
        self._process.start()
        theirs.close()
        self._max_unrecorded = max_unrecorded
        self._num_unrecorded = self._num_unanswered = 0
        self._recorded: Counter[ShardKey] = Counter()
        self._published: list[Published] = []
        self.num_publishing = 0

    @property
    def pid(self) -> int:
        return int(self._process.pid)

    def open(self, work: ShardWork) -> None:
        """Get ready for the rollouts of a shard. Its journal must exist."""
        self._send(_Open(work=work))

    def record(self, rollouts: Sequence[tuple[ShardKey, FinishedRollout]]) -> None:
        """Queue rollouts for their journals, each with the key of its shard. Waits while too many are queued."""
        self._num_unrecorded += len(rollouts)
        self._send(_Record(rollouts=list(rollouts)))
        while self._num_unrecorded > self._max_unrecorded:
            self._take_answer()

    def publish(self, work: ShardWork, facts: EngineFacts) -> None:
        """Queue the publication of a shard. All of its rollouts must be recorded or queued before."""
        self.num_publishing += 1
        self._send(_Publish(work=work, facts=facts))

    def take_recorded(self) -> Counter[ShardKey]:
        """Return how many rollouts were written to journals since the last call, by shard."""
        self._take_answers()
        recorded, self._recorded = self._recorded, Counter()
        return recorded

    def take_published(self) -> list[Published]:
        """Return the shards that were published since the last call."""
        self._take_answers()
        published, self._published = self._published, []
        self.num_publishing -= len(published)
        return published

    def drain(self) -> None:
        """Wait until all queued work is done."""
        while self._num_unanswered:
            self._take_answer()

    def kill(self) -> None:
        """End the process now. Queued work is lost."""
        self._process.kill()
        self._process.join()
        self.connection.close()

    def _send(self, message: _Open | _Record | _Publish) -> None:
        # unread answers would fill the socket: then the process would block, and this call too
        self._take_answers()
        self._num_unanswered += 1
        with self._alive():
            self.connection.send(message)

    def _take_answers(self) -> None:
        while self._num_unanswered and self._has_answer():
            self._take_answer()

    def _has_answer(self) -> bool:
        with self._alive():
            return bool(self.connection.poll())

    def _take_answer(self) -> None:
        with self._alive():
            answer = self.connection.recv()
        self._num_unanswered -= 1
        match answer:
            case _Recorded(counts=counts):
                self._num_unrecorded -= sum(counts.values())
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
            # it has closed its connection, so it is about to end, and its exit code tells of what
            self._process.join(time_limit(EXIT_SECONDS))
            code = self._process.exitcode
            raise RuntimeError(f"the process that records rollouts ended with exit code {code}") from None


def _run(
    connection: "Connection[Any, Any]",
    to_close: "list[Connection[Any, Any]]",
    decoder: Decoder,
    spec: GenerationSpec,
    parent_pid: int,
) -> None:
    die_with_parent(parent_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for inherited in to_close:
        inherited.close()
    gc.freeze()
    gc.enable()
    writers: dict[ShardKey, RolloutWriter] = {}
    with contextlib.suppress(EOFError, OSError):
        while True:
            connection.send(_handle(connection.recv(), writers, decoder, spec))
    # no interpreter shutdown: the forked objects belong to the replica
    os._exit(0)


def _handle(
    message: _Open | _Record | _Publish, writers: dict[ShardKey, RolloutWriter], decoder: Decoder, spec: GenerationSpec
) -> _Recorded | Published | _Failed:
    try:
        match message:
            case _Open(work=work):
                # the replica, which appends too, has repaired the journal
                writers[work.key] = RolloutWriter(JournalWriter(work.journal, repair=False), spec, decoder)
            case _Record(rollouts=rollouts):
                by_shard: dict[ShardKey, list[FinishedRollout]] = {}
                for key, rollout in rollouts:
                    by_shard.setdefault(key, []).append(rollout)
                for key, of_shard in by_shard.items():
                    writers[key].write(of_shard)
                return _Recorded(counts={key: len(of_shard) for key, of_shard in by_shard.items()})
            case _Publish(work=work, facts=facts):
                writers.pop(work.key).close()
                return Published(work=work, num_errors=publish_rollouts(work, spec, facts))
    except StorageError as error:
        return _Failed(storage=True, message=str(error))
    except Exception:
        return _Failed(storage=False, message=traceback.format_exc())
    return _Recorded(counts={})
