"""Who works in a pool of nodes, who did, and who must not, and which shards each has; the links of the pool keep it.

A node that was given up may come back with a shard that another has made meanwhile. What counts is who holds the shard.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

import polars as pl

from tasks.errors import HarvestError, harvest_error
from tasks.fleet.cluster import NodeUnfit
from tasks.fleet.node_logs import add_logs, node_directory
from tasks.fleet.node_status import Key, MadeShard, NodeAtWork, NodeReport, ShardOrder
from tasks.generation.recovery import PoolEvent
from tasks.plan.run_plan import RunPlan
from tasks.plan.shards import Shard
from tasks.records import shard_label


@dataclass(kw_only=True)
class WaitingShard:
    """A shard that a task thread waits for."""

    plan: RunPlan
    shard: Shard
    holder: NodeAtWork | None = None
    was_lost: bool = False
    """Whether a node that had it was lost."""
    future: "Future[tuple[NodeAtWork, MadeShard]]" = field(default_factory=Future)

    @property
    def key(self) -> Key:
        return self.plan.run_id, self.shard.index


class NodeRoster:
    """``wanted`` says how many nodes the pool asked for. The first of the ``plans`` has the nodes' logs.

    ``tell`` gets the messages for the user, and the events of the nodes' pools. Safe from any thread: what is public is
    replaced and not changed.
    """

    def __init__(self, wanted: str, plans: Sequence[RunPlan], tell: Callable[[str | PoolEvent], None]) -> None:
        self.first_admitted_at: float | None = None
        """When the first token was reported, on the monotonic clock."""
        self.error: HarvestError | None = None
        """What ended the pool, which may be that it is done."""
        self.nodes: tuple[NodeAtWork, ...] = ()
        """All that have had a place, in the order in which they got it."""
        self.unfit: Mapping[str, tuple[str, NodeUnfit]] = {}
        """Name and failing of each node that must not work, by its id."""
        self.losses: tuple[tuple[int | None, str], ...] = ()
        """The place and a phrase for each loss since the last finished shard."""
        self._wanted = wanted
        self._logs = plans[0].paths.logs
        self._has_one_run = len(plans) == 1
        self._waiting: dict[Key, WaitingShard] = {}
        self._tell = tell
        self._lock = threading.RLock()

    @property
    def is_steady(self) -> bool:
        """Whether a node works in a place that had none of these losses."""
        lost = {place for place, _ in self.losses}
        return any(node.works and node.place not in lost for node in self.nodes)

    @property
    def num_working(self) -> int:
        return sum(node.works for node in self.nodes)

    def submit(self, plan: RunPlan, shard: Shard) -> "Future[tuple[NodeAtWork, MadeShard]]":
        """Queue ``shard``. The future has who made it and what, once it is made."""
        item = WaitingShard(plan=plan, shard=shard)
        with self._lock:
            if self.error is not None:
                raise self.error
            self._waiting[item.key] = item
        return item.future

    def close(self, error: Exception) -> None:
        """Let no node begin any more, and raise ``error`` in all threads that wait now or later; the first counts."""
        with self._lock:
            self.error = self.error or harvest_error(error)
            waiting, self._waiting = self._waiting, {}
        for item in waiting.values():
            item.future.set_exception(self.error)

    def unusable(self) -> Set[str]:
        """Return the ids of the nodes in use, and of those that are unfit."""
        return self.unfit.keys() | {each for node in self.nodes if node.ended is None for each in node.nodes}

    def claim(self, node: NodeAtWork) -> bool:
        """Add the node, and return True, unless it is in use or unfit."""
        with self._lock:
            if self.error or not self.unusable().isdisjoint(node.nodes):
                return False
            self.nodes += (node,)
            return True

    def is_first_on_node(self, node: NodeAtWork) -> bool:
        """Return whether no worker was on its node before."""
        return next(other for other in self.nodes if other.nodes == node.nodes) is node

    def begins(self, node: NodeAtWork) -> None:
        """Note that the node has passed its checks, under a name that no other one has now."""
        with self._lock:
            node.begun = True
            begun = sum(other.works and other.begun for other in self.nodes)
            if node.name in {other.name for other in self.nodes if other is not node and other.works}:
                node.name = f"{node.name}-{node.place + 1}"
        node.logs = str(node_directory(self._logs, node.name))
        self._tell(f"{node.name} begins: {begun} of {self._wanted}")

    def room(self, node: NodeAtWork) -> int:
        """Return how many more shards than it has ``node`` can take."""
        with self._lock:
            return node.status.capacity - sum(item.holder is node for item in self._waiting.values())

    def next_shards(self, node: NodeAtWork) -> Iterator[ShardOrder]:
        """Yield shards for the node's worker, which holds them from now on. Each is read when it is taken."""
        if node.status.state != "generating":
            return
        with self._lock:
            # another node with room goes on with what it has begun before; of two that have, the first to ask
            others = [other for other in self.nodes if other is not node and other.works and self.room(other) > 0]
            theirs = {key for other in others for key in other.facts.begun - node.facts.begun}
            free = [item for item in self._waiting.values() if item.holder is None and item.key not in theirs]
            free.sort(key=lambda item: (item.key not in node.facts.begun, not item.was_lost))
            taken = free[: max(0, self.room(node))]
            for item in taken:
                item.holder = node
        for item in taken:
            paths, index = item.plan.paths, item.shard.index
            journal = paths.journal(index)
            yield ShardOrder(
                run_id=item.plan.run_id,
                shard=item.shard,
                questions=paths.questions(index).read_bytes(),
                journal=journal.read_bytes() if journal.is_file() else None,
            )

    def reported(self, node: NodeAtWork, report: NodeReport) -> None:
        """Take what the worker told."""
        if self.first_admitted_at is None and report.status.tokens:
            self.first_admitted_at = time.monotonic()
        add_logs(self._logs, node.name, report.logs)
        for item in report.news:
            match item:
                case MadeShard():
                    self._made(node, item)
                case PoolEvent(message=message, details=details):
                    if "log_path" in details:
                        name = str(details["log_path"]).rpartition("/")[2]
                        details = {**details, "log_path": f"{node.logs}/{name}"}
                    self._tell(replace(item, message=f"{node.name}: {message}", details=details))
                case str():
                    self._tell(f"{node.name}: {item}")

    def fetched(self, node: NodeAtWork, key: Key, num_rollouts: int) -> None:
        """Note that a shard was fetched from the node."""
        with self._lock:
            self.losses = ()
            node.made.append(key)
            node.rollouts_fetched += num_rollouts
        self._tell(f"shard {self.label(key)} came from {node.name}")

    def label(self, key: Key) -> str:
        """Return what messages call a shard."""
        run_id, index = key
        return shard_label(index) if self._has_one_run else f"{shard_label(index)} of {run_id}"

    def ended(self, node: NodeAtWork, telemetry: pl.DataFrame | None) -> None:
        """Note that the worker ended in good order."""
        node.telemetry, node.ended = telemetry, "well"

    def lost(self, node: NodeAtWork | None, why: str) -> None:
        """Note that the worker does not answer any more, or that there is no place for one. Others get its shards."""
        name = (node and node.name) or "a node"
        with self._lock:
            if node is not None:
                node.ended = "lost"
            if self.error:
                return
            self.losses += ((node.place if node else None, f"{name}: {why}"),)
        self._tell(f"{name} is lost: {why}{self._give_back(node) if node else ''}")

    def refused(self, node: NodeAtWork, error: NodeUnfit) -> None:
        """Note that no worker can work on this node. Others get its shards."""
        with self._lock:
            self.unfit = {**self.unfit, **dict.fromkeys(error.nodes or node.nodes, (node.name, error))}
            node.ended = "failed"
        self._tell(f"{node.name} does not work for this run: {error}{self._give_back(node)}")

    def _made(self, node: NodeAtWork, made: MadeShard) -> None:
        """End the wait for a shard, unless it is not this node's."""
        key = made.run_id, made.result.index
        with self._lock:
            item = self._waiting.get(key)
            if item is None or item.holder is not node:
                return
            del self._waiting[key]
        item.future.set_result((node, made))

    def _give_back(self, node: NodeAtWork) -> str:
        """Let others have the node's shards, before what nobody has had. Return what to say of it."""
        with self._lock:
            lost = [item for item in self._waiting.values() if item.holder is node]
            for item in lost:
                item.holder, item.was_lost = None, True
        labels = map(self.label, sorted(item.key for item in lost))
        return f". Other nodes get its shards {', '.join(labels)}" if lost else ""
