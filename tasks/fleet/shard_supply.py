"""A node's side of the ledger: a thread that claims shards when the node needs them, and renews its claims."""

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
from tasks.time_limits import time_limit

logger = logging.getLogger(__name__)

RENEWALS_PER_LEASE = 6
GIVE_UP_SECONDS = 600.0
"""How long the shared storage may be unreachable before the node gives up. Its claims expire earlier, which only costs
work."""


class ShardSupply:
    """Supplies a node with shards. Use it as a context manager. ``want`` and ``take`` never wait for the storage.

    The thread claims at most half of the node's share of the free shards at a time, so that nodes that start later find
    work. It begins with ``first``, the shards that the node began earlier. Then it goes on from the node's ``place`` in
    the order, so that two nodes seldom want the same shard. It calls ``tell`` with messages for the user, and ``wake``
    when there is something to take.
    """

    def __init__(
        self,
        ledger: Ledger,
        shards: Sequence[int],
        *,
        first: Sequence[int] = (),
        nodes: int,
        place: int,
        tell: Callable[[str], None],
        wake: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        start = len(shards) * (place % nodes) // nodes
        self._order = list(dict.fromkeys([*first, *shards[start:], *shards[:start]]))
        self._nodes = nodes
        self._tell, self._wake = tell, wake
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
        """Whether every wanted shard is finished on some node, or the run was removed from the storage.

        Raises the storage's error when the thread gave up.
        """
        if self._error is not None:
            raise self._error
        return self._over.is_set()

    @property
    def num_finished(self) -> int:
        """How many wanted shards are finished on any node."""
        return len(self._finished)

    def want(self, count: int) -> None:
        """Set how many more shards the node can use."""
        self._wanted = count

    def take(self) -> list[int]:
        """Return the shards that were claimed since the last call."""
        taken = []
        while self._taken:
            taken.append(self._taken.popleft())
        return taken

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        # a flow that is ended by a signal must not wait for storage that cannot be reached
        self._thread.join(None if error is None else self._tick_s)

    def _run(self) -> None:
        renew_at = failing_since = None
        while not self._stop.is_set():
            try:
                if renew_at is None or time.monotonic() >= renew_at:
                    # whatever the factor of time limits here: nodes with another factor judge this node too
                    renew_at = time.monotonic() + self._ledger.lease_s / RENEWALS_PER_LEASE
                    for index in self._ledger.renew():
                        self._tell(f"shard {index} was taken over by another node: this one was away for too long")
                self._look()
                failing_since = None
            except HarvestError as error:
                now = time.monotonic()
                failing_since = failing_since or now
                logger.warning("the ledger cannot be reached: %s", error)
                if isinstance(error, ConfigError) or now - failing_since > time_limit(GIVE_UP_SECONDS):
                    self._error = error
                    self._wake()
                    return
            # a random pause, so that two nodes that released the same shard do not claim it together again
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
