"""The replica pools of several nodes, as one pool: the flow gives it shards, and gets them published.

One thread per node talks with its worker. Task threads call ``generate``, which fetches the shard as well. The flow's
main thread calls ``pump``, in which messages reach the listener and the log.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

from tasks.errors import HarvestError, NodesLost
from tasks.fleet.cluster import Cluster, Need, NodeGone
from tasks.fleet.node_link import END_SECONDS, SILENT_SECONDS, NodeLink, NodeUnfit
from tasks.fleet.node_logs import add_logs, node_directory
from tasks.fleet.node_order import NodeOrder
from tasks.fleet.node_status import MadeShard, NodeReport, ShardOrder
from tasks.fleet.node_totals import Ended, NodeRecord, merge_nodes
from tasks.fleet.node_watch import MOST_LOSSES, WAIT_SECONDS, NodeWatch
from tasks.fleet.shard_transfer import DamagedShard, fetch_shard
from tasks.fleet.waiting_shards import WaitingShards
from tasks.generation.recovery import PoolEvent
from tasks.generation.shard_queue import ShardResult
from tasks.plan.run_plan import RunPlan
from tasks.plan.shards import Shard
from tasks.time_limits import time_limit

MOST_SHARD_TASKS = 192
"""Largest number of task runs in flight: three for each of 64 nodes. It is below the number of the flow's threads."""
MOST_FETCHES = 8
WATCH_SECONDS = 1.0
KILL_SECONDS = 2.0
"""How long the pool waits, at its end, for a thread whose worker was killed."""


@dataclass(frozen=True, kw_only=True)
class _Holder:
    """One worker of a link; another worker of the same link is another holder."""

    link: NodeLink
    handle: Any


class NodePool:
    """Keeps up to ``nodes`` nodes of ``cluster`` at work for ``plans``. Use it as a context manager.

    Under a profile whose replica needs several nodes, a link and what is called a node below is a group of them.

    With fewer nodes it goes on with those that there are, and takes others as they come. ``listener`` gets the events
    of the nodes' pools, ``log`` the messages for the user.
    """

    def __init__(
        self,
        plans: Sequence[RunPlan],
        cluster: Cluster,
        nodes: int,
        *,
        listener: Callable[[PoolEvent], None] = lambda event: None,
        log: Callable[[str], None] = lambda text: None,
        wait_s: float = WAIT_SECONDS,
        silent_s: float = SILENT_SECONDS,
    ) -> None:
        self.first_admitted_at: float | None = None
        """When the first token was reported, on the monotonic clock."""
        self.rollouts_resumed = 0
        """Those of the nodes' journals count as finished."""
        self._plans = plans
        self._cluster = cluster
        self._listener = listener
        self._log = log
        gpus = plans[0].profile.gpus if plans[0].profile.expect.device == "cuda" else 0
        self._need = Need(gpus=gpus, nodes=plans[0].profile.engine.nodes_per_replica)
        links = nodes // self._need.nodes
        order = NodeOrder.of(plans)
        self._links = [NodeLink(number, cluster, self._need, order, self, silent_s) for number in range(links)]
        self._lock = threading.RLock()
        self._awake = threading.Event()
        self._over = threading.Event()
        self._told: deque[Callable[[], None]] = deque()
        self._waiting: WaitingShards[_Holder] = WaitingShards(self.wake)
        self._holders: dict[NodeLink, _Holder] = {}
        self._records: list[NodeRecord] = []
        self._unfit: dict[str, tuple[str, NodeUnfit]] = {}
        self._losses: deque[str] = deque(maxlen=MOST_LOSSES * links)
        self._fetched = 0
        self._fetches = threading.Semaphore(MOST_FETCHES)
        self._error: HarvestError | None = None
        self._watch = NodeWatch(cluster, self._need, links, wait_s, self._say)

    @property
    def capacity(self) -> int:
        """How many shard tasks to have in flight now."""
        return min(MOST_SHARD_TASKS, sum(link.status.capacity for link in self._links if link.works))

    @property
    def rollouts_finished(self) -> int:
        """Rollouts of fetched shards, and those that nodes have made of others."""
        with self._lock:
            return self._fetched + sum(_in_progress(link) for link in self._links if link.works)

    @property
    def tokens_generated(self) -> int:
        with self._lock:
            ended = sum(record.status.tokens for record in self._records)
            return ended + sum(link.status.tokens for link in self._links if link.works)

    @property
    def num_working(self) -> int:
        """How many nodes start or generate."""
        return sum(link.works for link in self._links)

    def generate(self, plan: RunPlan, shard: Shard) -> ShardResult:
        """Have a node generate ``shard``, publish it here, and return what it holds. Task threads call this.

        Raises NodesLost, ConfigError or StorageError.
        """
        while True:
            holder, made = self._waiting.submit(plan, shard).result()
            read = partial(self._read, holder, made)
            try:
                with self._fetches:
                    fetch_shard(plan, shard, made, read)
            except NodeGone as error:
                self._say(f"shard {shard.index} could not be fetched from {holder.link.name}: {error}")
                continue
            except DamagedShard as error:
                self._say(f"shard {shard.index} came damaged from {holder.link.name} and is made again: {error}")
                continue
            with contextlib.suppress(NodeGone):
                self._call(holder, "drop", plan.run_id, shard.index)
            with self._lock:
                self._losses.clear()
                self._fetched += shard.num_rollouts
                if self._holders.get(holder.link) is holder:
                    holder.link.made.append((plan.run_id, shard.index))
                    holder.link.rollouts_fetched += shard.num_rollouts
            self._say(f"shard {shard.index} came from {holder.link.name}")
            return ShardResult(
                index=shard.index,
                num_rollouts=shard.num_rollouts,
                num_errors=made.num_errors,
                num_resumed=made.num_resumed,
            )

    def wake(self) -> None:
        """Make ``pump`` return now. Safe from any thread."""
        self._awake.set()

    def pump(self, timeout: float) -> None:
        """Pass on what the nodes told, or wait up to ``timeout`` seconds for it. Raises what ended the pool."""
        self._awake.wait(timeout)
        self._awake.clear()
        while self._told:
            self._told.popleft()()
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        for link in self._links:
            link.start()
        threading.Thread(target=self._watch_until_over, name="nodes", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._waiting.close(NodesLost("the nodes' pool was closed"))
        if error is None:
            for link in self._links:
                link.stop()
            deadline = time.monotonic() + time_limit(END_SECONDS)
            for link in self._links:
                link.join(max(0.0, deadline - time.monotonic()))
        for link in self._links:
            link.kill()
        for link in self._links:
            link.join(KILL_SECONDS)
        if error is None:
            while self._told:
                self._told.popleft()()
        merge_nodes(self._plans, self._records)

    # called by the links, each from its thread

    def unusable(self) -> Set[str]:
        with self._lock:
            return self._unfit.keys() | {node for link in self._links for node in link.nodes}

    def claim(self, link: NodeLink, nodes: tuple[str, ...]) -> bool:
        with self._lock:
            if self._over.is_set() or not self.unusable().isdisjoint(nodes):
                return False
            link.nodes = nodes
            return True

    def next_shards(self, link: NodeLink) -> list[ShardOrder]:
        if link.status.state != "generating":
            return []
        with self._lock:
            holder = self._holders.get(link)
            if holder is None or holder.handle is not link.handle:
                holder = self._holders[link] = _Holder(link=link, handle=link.handle)
                self._name(link)
        taken = self._waiting.take(holder, link.status.capacity, link.facts.begun)
        return [
            ShardOrder(
                run_id=item.plan.run_id,
                shard=item.shard,
                attempt=item.attempt,
                questions=item.plan.paths.questions(item.shard.index).read_bytes(),
                journal=_journal(item.plan, item.shard.index),
            )
            for item in taken
        ]

    def reported(self, link: NodeLink, report: NodeReport) -> None:
        with self._lock:
            if self.first_admitted_at is None and report.status.tokens:
                self.first_admitted_at = time.monotonic()
            holder = self._holders.get(link)
        logs = self._plans[0].paths.logs
        add_logs(logs, link.name, report.logs)
        for item in report.news:
            match item:
                case MadeShard():
                    if holder is None or not self._waiting.made(holder, item):
                        self._say(f"shard {item.index} came late from {link.name} and is not taken")
                case PoolEvent():
                    details = dict(item.details)
                    if "log_path" in details:
                        name = str(details["log_path"]).rpartition("/")[2]
                        details["log_path"] = str(node_directory(logs, link.name) / name)
                    told = PoolEvent(kind=item.kind, message=f"{link.name}: {item.message}", details=details)
                    self._tell(partial(self._listener, told))
                case str():
                    self._say(f"{link.name}: {item}")

    def ended(self, link: NodeLink, telemetry: bytes | None) -> None:
        with self._lock:
            self._end_record(link, "well", telemetry)

    def lost(self, link: NodeLink, why: str) -> None:
        with self._lock:
            name = link.name or f"node {link.number + 1}"
            self._losses.append(f"{name}: {why}")
            self._end_record(link, "lost")
            if self._over.is_set():
                return
            shards = self._give_back(link)
        self._say(f"{name} is lost: {why}{shards}")

    def unfit(self, link: NodeLink, error: NodeUnfit) -> None:
        with self._lock:
            self._unfit |= dict.fromkeys(error.nodes or link.nodes, (link.name, error))
            self._end_record(link, "failed")
            shards = self._give_back(link)
        self._say(f"{link.name} does not work for this run: {error}{shards}")

    def failed(self, error: Exception) -> None:
        self._fail(error if isinstance(error, HarvestError) else HarvestError(f"{type(error).__name__}: {error}"))

    def _give_back(self, link: NodeLink) -> str:
        holder = self._holders.pop(link, None)
        shards = self._waiting.give_back(holder) if holder is not None else []
        return f". Other nodes get its shards {', '.join(map(str, shards))}" if shards else ""

    def _name(self, link: NodeLink) -> None:
        """Give the node a name of its own, and tell that it begins."""
        names = {other.name for other in self._links if other is not link and other.works}
        if link.name in names:
            link.name = f"{link.name}-{link.number + 1}"
        self._say(f"{link.name} begins: {self.num_working} of {len(self._links)} {self._need.places}")

    def _record_of(self, link: NodeLink, ended: Ended = "lost", telemetry: bytes | None = None) -> NodeRecord:
        return NodeRecord(
            node=link.name,
            ended=ended,
            status=link.status,
            shards=tuple(link.made),
            preflight=link.facts.preflight,
            telemetry=telemetry,
            logs=str(node_directory(self._plans[0].paths.logs, link.name)),
        )

    def _end_record(self, link: NodeLink, ended: Ended, telemetry: bytes | None = None) -> None:
        if link.name and link.facts.preflight is not None:
            self._records.append(self._record_of(link, ended, telemetry))

    def _read(self, holder: _Holder, made: MadeShard, offset: int, size: int) -> bytes:
        data: bytes = self._call(holder, "read", made.run_id, made.index, offset, size)
        return data

    def _call(self, holder: _Holder, method: str, *given: Any) -> Any:
        if self._holders.get(holder.link) is not holder:
            raise NodeGone("it was lost")
        return holder.link.call(method, *given)

    def _say(self, text: str) -> None:
        self._tell(partial(self._log, text))

    def _tell(self, call: Callable[[], None]) -> None:
        self._told.append(call)
        self.wake()

    def _watch_until_over(self) -> None:
        while not self._over.wait(WATCH_SECONDS):
            with self._lock:
                unfit, losses = dict(self._unfit), list(self._losses)
            try:
                self._watch.look(self.num_working, unfit, losses)
            except HarvestError as error:
                self._fail(error)

    def _fail(self, error: HarvestError) -> None:
        with self._lock:
            self._error = self._error or error
        self._waiting.close(self._error)
        self.wake()


def _in_progress(link: NodeLink) -> int:
    return max(0, link.status.rollouts + link.status.resumed - link.rollouts_fetched)


def _journal(plan: RunPlan, index: int) -> bytes | None:
    path = plan.paths.journal(index)
    return path.read_bytes() if path.is_file() else None
