"""The shards that task threads wait for, and which node has each of them.

A node that was given up may come back with a shard that another has made meanwhile. What counts is who holds the shard.
"""

import threading
from collections import deque
from collections.abc import Collection
from concurrent.futures import Future
from dataclasses import dataclass, field

from tasks.errors import HarvestError
from tasks.fleet.node_at_work import NodeAtWork
from tasks.fleet.node_status import Key, MadeShard
from tasks.plan.run_plan import RunPlan
from tasks.plan.shards import Shard


@dataclass(kw_only=True)
class WaitingShard:
    """A shard that is not made yet."""

    plan: RunPlan
    shard: Shard
    holder: NodeAtWork | None = None
    future: "Future[tuple[NodeAtWork, MadeShard]]" = field(default_factory=Future)

    @property
    def key(self) -> Key:
        return self.plan.run_id, self.shard.index


class WaitingShards:
    """Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._all: dict[Key, WaitingShard] = {}
        self._next: deque[Key] = deque()
        self._closed: HarvestError | None = None

    def submit(self, plan: RunPlan, shard: Shard) -> "Future[tuple[NodeAtWork, MadeShard]]":
        """Queue ``shard``. The future has who made it and what, once it is made."""
        item = WaitingShard(plan=plan, shard=shard)
        with self._lock:
            if self._closed is not None:
                raise self._closed
            self._all[item.key] = item
            self._next.append(item.key)
        return item.future

    def room(self, holder: NodeAtWork) -> int:
        """Return how many more shards than it has ``holder`` can take."""
        with self._lock:
            return holder.status.capacity - sum(item.holder is holder for item in self._all.values())

    def take(self, holder: NodeAtWork, besides: Collection[Key]) -> list[WaitingShard]:
        """Give ``holder`` as many of the next shards as it has room for; first those that it has begun before.

        Those ``besides`` are kept for others.
        """
        with self._lock:
            keys = [key for key in self._next if key not in besides]
            keys.sort(key=lambda key: key not in holder.facts.begun)
            taken = [self._all[key] for key in keys[: max(0, self.room(holder))]]
            for item in taken:
                self._next.remove(item.key)
                item.holder = holder
            return taken

    def made(self, holder: NodeAtWork, made: MadeShard) -> None:
        """End the wait for a shard, unless it is not this holder's."""
        with self._lock:
            item = self._all.get((made.run_id, made.result.index))
            if item is None or item.holder is not holder:
                return
            del self._all[item.key]
        item.future.set_result((holder, made))

    def give_back(self, holder: NodeAtWork) -> list[Key]:
        """Put the shards of a lost holder before all others, and return their keys."""
        with self._lock:
            lost = [item for item in self._all.values() if item.holder is holder]
            for item in lost:
                item.holder = None
            self._next.extendleft(reversed([item.key for item in lost]))
        return sorted(item.key for item in lost)

    def close(self, error: HarvestError) -> None:
        """Raise ``error`` in all threads that wait now or later. Only the first call's error counts."""
        with self._lock:
            self._closed = self._closed or error
            items = list(self._all.values())
            self._all.clear()
            self._next.clear()
        for item in items:
            item.future.set_exception(self._closed)
