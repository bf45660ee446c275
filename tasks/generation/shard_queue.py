"""Shards on their way through the replicas: who waits for which, which come next, and what became of each.

Task threads wait here; everything else is the flow's main thread's.
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
    """A generated shard: ``num_errors`` of its rollouts are error rows, ``num_resumed`` were in its journal before."""

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
    """Every shard that is waited for is in here until it is finished or failed, so that no thread waits for ever."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._lock = threading.Lock()
        self._waiting: dict[int, _Waiting] = {}
        self._next: deque[Shard] = deque()
        self._resumed: dict[int, int] = {}
        self._closed: HarvestError | None = None

    @property
    def busy(self) -> bool:
        """True while any shard is waited for."""
        return bool(self._waiting)

    @property
    def num_resumed(self) -> int:
        """Rollouts that were in the journals when this session first looked."""
        return sum(self._resumed.values())

    def wait_for(self, shard: Shard) -> ShardResult:
        """Queue ``shard`` and wait until it is finished; raises what it failed of. Safe from any thread."""
        with self._lock:
            if self._closed is not None:
                raise self._closed
            assert shard.index not in self._waiting
            waiting = self._waiting[shard.index] = _Waiting(shard=shard, future=Future())
            self._next.append(shard)
        self._wake()
        return waiting.future.result()

    def take(self) -> Shard | None:
        """The next shard for a replica, or None."""
        with self._lock:
            return self._next.popleft() if self._next else None

    def started(self, index: int, num_in_journal: int) -> int | None:
        """Note what a shard's journal held; what it held before this session, when this is the first look."""
        if index in self._resumed:
            return None
        self._resumed[index] = num_in_journal
        return num_in_journal

    def finished(self, index: int, num_errors: int) -> ShardResult:
        """Hand the result to who waits for the shard."""
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
        """Raise ``error`` to those who wait for these shards; they may queue them again."""
        with self._lock:
            lost = [self._waiting.pop(index) for index in indices if index in self._waiting]
        for waiting in lost:
            waiting.future.set_exception(error)

    def close(self, error: HarvestError) -> None:
        """Raise ``error`` to all who wait, and to all who come; the first call's error is the one that stands."""
        with self._lock:
            self._closed = self._closed or error
            self._next.clear()
            lost = list(self._waiting)
        self.failed(lost, self._closed)
