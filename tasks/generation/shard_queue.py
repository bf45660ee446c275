"""Hands shards from waiting task threads to the replica pool, and results back to the threads.

Task threads call only ``submit``. The flow's main thread calls everything else.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass

from tasks.errors import HarvestError
from tasks.generation.generation_spec import ShardKey
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
        self._waiting: dict[ShardKey, _Waiting] = {}
        self._next: deque[ShardKey] = deque()
        self._resumed: dict[ShardKey, int] = {}
        self._closed: HarvestError | None = None

    @property
    def busy(self) -> bool:
        """Whether a thread waits for a shard."""
        return bool(self._waiting)

    @property
    def num_resumed(self) -> int:
        """How many rollouts were in the journals when this session first opened them."""
        return sum(self._resumed.values())

    def submit(self, key: ShardKey, shard: Shard) -> Future[ShardResult]:
        """Queue ``shard`` as ``key``. The future has its result when it is finished, or its error when it failed."""
        with self._lock:
            if self._closed is not None:
                raise self._closed
            assert key not in self._waiting
            waiting = self._waiting[key] = _Waiting(shard=shard, future=Future())
            self._next.append(key)
        self._wake()
        return waiting.future

    def first(self, rank: Callable[[ShardKey], int]) -> ShardKey | None:
        """Return the shard of the lowest ``rank`` that is next for a replica, or None."""
        with self._lock:
            return min(self._next, key=rank, default=None)

    def take(
        self, fits: Callable[[ShardKey], bool] = lambda key: True, rank: Callable[[ShardKey], int] = lambda key: 0
    ) -> tuple[ShardKey, Shard] | None:
        """Return the next shard for a replica that ``fits``, of the lowest ``rank``, or None."""
        with self._lock:
            key = min(filter(fits, self._next), key=rank, default=None)
            if key is None:
                return None
            self._next.remove(key)
            return key, self._waiting[key].shard

    def started(self, key: ShardKey, num_in_journal: int) -> bool:
        """Note the rollouts in a shard's journal. Return False when this session noted them before."""
        if key in self._resumed:
            return False
        self._resumed[key] = num_in_journal
        return True

    def finished(self, key: ShardKey, num_errors: int) -> ShardResult:
        """Make the shard's result, hand it to the waiting thread, and return it."""
        with self._lock:
            waiting = self._waiting.pop(key)
        result = ShardResult(
            index=key.shard,
            num_rollouts=waiting.shard.num_rollouts,
            num_errors=num_errors,
            num_resumed=self._resumed.get(key, 0),
        )
        waiting.future.set_result(result)
        return result

    def failed(self, keys: Iterable[ShardKey], error: HarvestError) -> None:
        """Raise ``error`` in the threads that wait for these shards. A thread may queue its shard again."""
        with self._lock:
            lost = [self._waiting.pop(key) for key in keys if key in self._waiting]
        for waiting in lost:
            waiting.future.set_exception(error)

    def close(self, error: HarvestError) -> None:
        """Raise ``error`` in all threads that wait now or later. Only the first call's error counts."""
        with self._lock:
            self._closed = self._closed or error
            self._next.clear()
            lost = list(self._waiting)
        self.failed(lost, self._closed)
