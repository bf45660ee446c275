"""Hands shards from waiting task threads to the replica pool, and results back to the threads.

Task threads call only ``wait_for``. The flow's main thread calls everything else.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass

from tasks.errors import HarvestError
from tasks.plan.shards import Shard


@dataclass(frozen=True, kw_only=True)
class ShardResult:
    """A generated shard. ``num_errors`` rollouts are error rows; ``num_resumed`` were in the journal before."""

    index: int
    num_rollouts: int
    num_errors: int
    num_resumed: int

    @property
    def num_completed(self) -> int:
        return self.num_rollouts - self.num_errors


@dataclass(frozen=True, kw_only=True)
class _Waiting:
    shard: Shard
    future: Future[ShardResult]


class ShardQueue:
    """Holds each shard from the call that waits for it until it is finished or has failed.

    So no thread waits for ever.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._lock = threading.Lock()
        self._waiting: dict[int, _Waiting] = {}
        self._next: deque[Shard] = deque()
        self._resumed: dict[int, int] = {}
        self._closed: HarvestError | None = None

    @property
    def busy(self) -> bool:
        """Whether a thread waits for a shard."""
        return bool(self._waiting)

    @property
    def num_resumed(self) -> int:
        """How many rollouts were in the journals when this session first opened them."""
        return sum(self._resumed.values())

    def wait_for(self, shard: Shard) -> ShardResult:
        """Queue ``shard`` and wait until it is finished. Raises the shard's error when it failed."""
        with self._lock:
            if self._closed is not None:
                raise self._closed
            assert shard.index not in self._waiting
            waiting = self._waiting[shard.index] = _Waiting(shard=shard, future=Future())
            self._next.append(shard)
        self._wake()
        return waiting.future.result()

    def take(self) -> Shard | None:
        """Return the next shard for a replica, or None."""
        with self._lock:
            return self._next.popleft() if self._next else None

    def started(self, index: int, num_in_journal: int) -> bool:
        """Note the rollouts in a shard's journal. Return False when this session noted them before."""
        if index in self._resumed:
            return False
        self._resumed[index] = num_in_journal
        return True

    def finished(self, index: int, num_errors: int) -> ShardResult:
        """Make the shard's result, hand it to the waiting thread, and return it."""
        with self._lock:
            waiting = self._waiting.pop(index)
        result = ShardResult(
            index=index,
            num_rollouts=waiting.shard.num_rollouts,
            num_errors=num_errors,
            num_resumed=self._resumed.get(index, 0),
        )
        waiting.future.set_result(result)
        return result

    def failed(self, indices: Iterable[int], error: HarvestError) -> None:
        """Raise ``error`` in the threads that wait for these shards. A thread may queue its shard again."""
        with self._lock:
            lost = [self._waiting.pop(index) for index in indices if index in self._waiting]
        for waiting in lost:
            waiting.future.set_exception(error)

    def close(self, error: HarvestError) -> None:
        """Raise ``error`` in all threads that wait now or later. Only the first call's error counts."""
        with self._lock:
            self._closed = self._closed or error
            self._next.clear()
            lost = list(self._waiting)
        self.failed(lost, self._closed)
