"""A node's share of the ledger: a thread that claims shards as the node has use for them, and renews its claims."""

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from tasks.errors import ConfigError, HarvestError
from tasks.fleet.ledger import Ledger

logger = logging.getLogger(__name__)

RENEWALS_PER_LEASE = 6
GIVE_UP_SECONDS = 600.0
"""How long the shared storage may be away before the node gives up; its claims expire before, which costs work only."""


class ShardSupply:
    """Use as a context manager. ``want``, ``take`` and ``published`` never block on the storage.

    A node claims at most half of its share of what is free at a time, so that nodes which start later find work, and
    begins with ``first``, the shards that it has begun before, and then at its own place in the order, so that nodes
    seldom want the same shard. ``beat`` is called after every
    renewal, ``tell`` with what a person wants to know, ``wake`` when there is something to take.
    """

    def __init__(
        self,
        ledger: Ledger,
        shards: Sequence[int],
        *,
        first: Sequence[int] = (),
        nodes: int,
        place: int,
        beat: Callable[[], None],
        tell: Callable[[str], None],
        wake: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        start = len(shards) * (place % nodes) // nodes
        self._order = list(dict.fromkeys([*first, *shards[start:], *shards[:start]]))
        self._nodes = nodes
        self._beat, self._tell, self._wake = beat, tell, wake
        self._tick_s = min(2.0, ledger.lease_s / (2 * RENEWALS_PER_LEASE))
        self._wanted = 0
        self._taken: deque[int] = deque()
        self._finished: frozenset[int] = frozenset()
        self._over = threading.Event()
        self._stop = threading.Event()
        self._error: HarvestError | None = None
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)

    @property
    def over(self) -> bool:
        """True when every wanted shard is finished, here or elsewhere, or the run was taken away. Raises what the
        storage failed of for too long."""
        if self._error is not None:
            raise self._error
        return self._over.is_set()

    @property
    def num_finished(self) -> int:
        """Wanted shards that are finished, on any node."""
        return len(self._finished)

    def want(self, count: int) -> None:
        """The node has use for ``count`` more shards."""
        self._wanted = count

    def take(self) -> list[int]:
        """Shards that were claimed since the last call."""
        taken = []
        while self._taken:
            taken.append(self._taken.popleft())
        return taken

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        # whoever ends the flow by a signal does not wait for a storage that is away
        self._thread.join(None if error is None else self._tick_s)

    def _run(self) -> None:
        renew_at = failing_since = None
        while not self._stop.is_set():
            try:
                if renew_at is None or time.monotonic() >= renew_at:
                    renew_at = time.monotonic() + self._ledger.lease_s / RENEWALS_PER_LEASE
                    for index in self._ledger.renew():
                        self._tell(f"shard {index} was taken over by another node: this one was away for too long")
                    self._beat()
                self._look()
                failing_since = None
            except HarvestError as error:
                now = time.monotonic()
                failing_since = failing_since or now
                logger.warning("the ledger is out of reach: %s", error)
                if isinstance(error, ConfigError) or now - failing_since > GIVE_UP_SECONDS:
                    self._error = error
                    self._wake()
                    return
            # two nodes that stepped back from one shard must not come back at the same moment
            self._stop.wait(self._tick_s * random.uniform(0.5, 1.5))

    def _look(self) -> None:
        view = self._ledger.look()
        self._finished = view.finished.intersection(self._order)
        if len(self._finished) == len(self._order) or not view.is_open:
            self._over.set()
            self._wake()
            return
        wanted = self._wanted - len(self._taken)
        if wanted <= 0:
            return
        free = [
            index
            for index in self._order
            if index not in view.finished and index not in view.own and not view.claims.get(index)
        ]
        share = max(1, -(-len(free) // (2 * self._nodes)))
        for index, before in self._ledger.claim(free, min(wanted, share)).items():
            if before:
                self._tell(f"shard {index} is taken over: its claim by {', '.join(sorted(before))} was not renewed")
            self._taken.append(index)
            self._wanted -= 1
        if self._taken:
            self._wake()
