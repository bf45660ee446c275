"""The replica pools of several nodes, as one pool: the flow gives it shards, and gets them published.

One thread per node talks with its worker. Task threads call ``generate``, which fetches the shard as well. The flow's
main thread calls ``pump``, in which messages reach the listener and the log.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Self

from tasks.errors import HarvestError, NodesLost, PoolClosed
from tasks.fleet.cluster import Cluster, Need, NodeGone
from tasks.fleet.node_link import SILENT_SECONDS, NodeLink
from tasks.fleet.node_order import NodeOrder
from tasks.fleet.node_roster import NodeRoster
from tasks.fleet.node_totals import merge_nodes
from tasks.fleet.node_watch import WAIT_SECONDS, NodeWatch
from tasks.fleet.ray_address import LOCAL, address_of
from tasks.fleet.ray_cluster import ray_cluster
from tasks.fleet.shard_transfer import DamagedShard, fetch_shard
from tasks.generation.engine import EngineLoad
from tasks.generation.recovery import PoolEvent
from tasks.generation.replica_pool import ReplicaPool
from tasks.generation.shard_queue import ShardResult
from tasks.plan.run_plan import RunPlan
from tasks.plan.shards import Shard
from tasks.time_limits import time_limit

MOST_SHARD_TASKS = 192
"""Largest number of task runs in flight: three for each of 64 nodes. It is below the number of the flow's threads."""
MOST_FETCHES = 8
MOST_DAMAGES = 3
"""How often one shard may come damaged before the run fails."""
WATCH_SECONDS = 1.0
END_SECONDS = 60.0
"""How long the nodes have to end in good order, and to send their last figures."""
KILL_SECONDS = 2.0
"""How long the pool waits, at its end, for the threads whose workers were killed."""


class NodePool:
    """Keeps up to ``nodes`` nodes of ``cluster`` at work for ``plans``. Use it as a context manager.

    With fewer nodes it goes on with those that there are, and takes others as they come. Under a profile whose replica
    needs several nodes, a node here is a group of them. ``listener`` gets the events of the nodes' pools, ``log`` the
    messages for the user. With ``forget_oom_rung`` every node begins with the full batch.
    """

    rollouts_resumed = 0
    """Those of the nodes' journals count as finished."""
    capacity = MOST_SHARD_TASKS
    """How many shard tasks to have in flight, also before a node works: a node finds what it has begun among them."""

    def __init__(
        self,
        plans: Sequence[RunPlan],
        cluster: Cluster,
        nodes: int,
        *,
        forget_oom_rung: bool = False,
        listener: Callable[[PoolEvent], None] = lambda event: None,
        log: Callable[[str], None] = lambda text: None,
        wait_s: float = WAIT_SECONDS,
        silent_s: float = SILENT_SECONDS,
    ) -> None:
        self._plans = plans
        gpus = plans[0].profile.gpus if plans[0].profile.expect.device == "cuda" else 0
        need = Need(gpus=gpus, nodes=plans[0].profile.engine.nodes_per_replica)
        links = nodes // need.nodes
        order = NodeOrder.of(plans, forget_oom_rung=forget_oom_rung)
        self._listener, self._log = listener, log
        self._told: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._roster = NodeRoster(f"{links} {need.places}", plans, self._tell)
        self._links = [NodeLink(number, cluster, need, order, self._roster, silent_s) for number in range(links)]
        self._watch = NodeWatch(cluster, need, links, wait_s, self._tell)
        self._over = threading.Event()
        self._fetches = threading.Semaphore(MOST_FETCHES)

    @property
    def rollouts_finished(self) -> int:
        """Rollouts of fetched shards, and those that nodes have made of others."""
        return sum(node.rollouts_fetched + node.rollouts_in_progress for node in self._roster.nodes)

    @property
    def tokens_generated(self) -> int:
        return sum(node.status.tokens for node in self._roster.nodes)

    @property
    def first_admitted_at(self) -> float | None:
        return self._roster.first_admitted_at

    @property
    def num_working(self) -> int:
        """How many nodes start or generate."""
        return self._roster.num_working

    @property
    def restarts(self) -> int:
        """How many engine failures made a replica on a node start again."""
        return sum(node.status.restarts for node in self._roster.nodes)

    @property
    def num_rung_changes(self) -> int:
        """How often a node went on with a smaller batch."""
        return sum(len(node.status.rung_changes) for node in self._roster.nodes)

    @property
    def load(self) -> EngineLoad:
        """What the engines of all nodes do, as of the nodes' last reports."""
        return EngineLoad.of(node.status.load for node in self._roster.nodes if node.works)

    def generate(self, plan: RunPlan, shard: Shard) -> ShardResult:
        """Have a node generate ``shard``, publish it here, and return what it holds. Task threads call this.

        Raises NodesLost, ConfigError or StorageError.
        """
        key, damages = (plan.run_id, shard.index), 0
        name = f"shard {self._roster.label(key)}"
        while True:
            node, made = self._roster.submit(plan, shard).result()
            damage = None
            try:
                with self._fetches:
                    fetch_shard(plan, shard, made, partial(node.call, "read", *key))
            except NodeGone as error:
                self._tell(f"{name} could not be fetched from {node.name}: {error}")
                continue
            except DamagedShard as error:
                damage = f"{name} came damaged from {node.name}: {error}"
            with contextlib.suppress(NodeGone):
                node.call("drop", *key)
            if damage is None:
                self._roster.fetched(node, key, shard.num_rollouts)
                return made.result
            if (damages := damages + 1) == MOST_DAMAGES:
                raise NodesLost(f"{damage}. So it did {damages} times; check the node's disk, memory and network")
            self._tell(f"{damage}. It is made again")

    def wake(self) -> None:
        """Make ``pump`` return now. Safe from any thread."""
        self._told.put(lambda: None)

    def pump(self, timeout: float) -> None:
        """Pass on what the nodes told, or wait up to ``timeout`` seconds for it. Raises what ended the pool."""
        self._pass_on(timeout)
        if self._roster.error is not None:
            raise self._roster.error

    def __enter__(self) -> Self:
        for link in self._links:
            link.start()
        threading.Thread(target=self._watch_until_over, name="nodes", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._roster.close(PoolClosed("the nodes' pool was closed"))
        if error is None:
            for link in self._links:
                link.stop()
            self._join(time_limit(END_SECONDS))
        for link in self._links:
            link.kill()
        self._join(KILL_SECONDS)
        if error is None:
            self._pass_on()
        merge_nodes(self._plans, [node for node in self._roster.nodes if node.facts.preflight is not None])

    def _join(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        for link in self._links:
            link.join(max(0.0, deadline - time.monotonic()))

    def _tell(self, item: str | PoolEvent) -> None:
        """Have the main thread pass on what a thread has to tell."""
        self._told.put(partial(self._log, item) if isinstance(item, str) else partial(self._listener, item))

    def _pass_on(self, timeout: float = 0.0) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._told.get(timeout=timeout)()
                timeout = 0.0

    def _watch_until_over(self) -> None:
        while not self._over.wait(WATCH_SECONDS):
            try:
                self._watch.look(self._roster)
            except HarvestError as error:
                self._roster.close(error)


ShardPool = ReplicaPool | NodePool
"""What generates shards, as a flow sees it: the replicas of this machine, or those of several nodes together."""


@contextlib.contextmanager
def node_session(
    plans: Sequence[RunPlan],
    *,
    nodes: int,
    ray: str | None,
    forget_oom_rung: bool,
    listener: Callable[[PoolEvent], None],
    log: Callable[[str], None],
) -> Iterator[NodePool]:
    """Yield a pool of up to ``nodes`` nodes of the cluster at ``ray``. Raises ConfigError when it cannot be used."""
    if nodes > 1 and address_of(ray) == LOCAL:
        log(
            f"warning: {nodes} nodes are asked for, and without --ray there is one: this machine. For several, start "
            "Ray on each of them and give --ray HOST:PORT of its head, or auto if this machine is part of it"
        )
        nodes = 1
    with (
        ray_cluster(ray, plans[0].paths.logs / "ray.log") as cluster,
        NodePool(plans, cluster, nodes, forget_oom_rung=forget_oom_rung, listener=listener, log=log) as pool,
    ):
        yield pool
