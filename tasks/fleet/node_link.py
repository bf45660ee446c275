"""The pool's side of one node: a thread that finds a place for a worker, feeds it, and finds another if it is lost."""

import threading
from collections.abc import Collection, Mapping
from typing import Any, Protocol

from tasks.fleet.cluster import Cluster, Need, NodeGone, NodeHandle
from tasks.fleet.node_identity import differences, software
from tasks.fleet.node_order import NodeOrder
from tasks.fleet.node_status import NodeFacts, NodeReport, NodeStatus, ShardOrder
from tasks.generation.recovery import RestartBudget
from tasks.time_limits import time_limit

REPORT_SECONDS = 0.25
"""How long a worker without news waits before it reports. So long may a shard wait for it."""
PLACE_SECONDS = 1.0
START_SECONDS = 300.0
"""How long the process of a worker may take to start and to say who it is."""
SILENT_SECONDS = 60.0
"""A worker that has not answered for so long is given up. It answers also while engines start or hang."""
END_SECONDS = 60.0
"""How long a pool has to end in good order, and to send its last figures."""


class NodeUnfit(Exception):
    """A node cannot or must not work for the run; the message says why. ``kind`` is the type of the error.

    ``nodes`` are the ids of the nodes at fault; by default all of the link's.
    """

    def __init__(self, kind: str, message: str, nodes: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.kind = kind
        self.nodes = nodes


def check_software(told: Mapping[str, Any], nodes: tuple[str, ...] = ()) -> None:
    """Raise NodeUnfit when the software that a worker told of is not that of the collection."""
    if differing := differences(told["software"], software()):
        raise NodeUnfit(
            "ConfigError",
            f"its software is not that of the collection: {'; '.join(differing)}. Install the same on every node",
            nodes,
        )


class NodeEvents(Protocol):
    """What a link tells the pool, from its own thread, and asks it."""

    def unusable(self) -> Collection[str]:
        """Ids of the nodes that other links use, and of those that are unfit."""
        ...

    def claim(self, link: "NodeLink", nodes: tuple[str, ...]) -> bool:
        """Make the nodes the link's, and return True, unless another link has one or it is unfit."""
        ...

    def next_shards(self, link: "NodeLink") -> list[ShardOrder]:
        """Return shards for the link's worker."""
        ...

    def reported(self, link: "NodeLink", report: NodeReport) -> None:
        """Take what the worker told."""
        ...

    def ended(self, link: "NodeLink", telemetry: bytes | None) -> None:
        """Note that the worker ended in good order."""
        ...

    def lost(self, link: "NodeLink", why: str) -> None:
        """Note that the worker does not answer any more. Others get its shards."""
        ...

    def unfit(self, link: "NodeLink", error: NodeUnfit) -> None:
        """Note that no worker can work on this node."""
        ...

    def failed(self, error: Exception) -> None:
        """Note that the pool itself cannot go on."""
        ...


class NodeLink:
    """Keeps one worker at work until ``stop``. What is public is of the worker that it has now."""

    def __init__(
        self, number: int, cluster: Cluster, need: Need, order: NodeOrder, events: NodeEvents, silent_s: float
    ) -> None:
        self.number = number
        self.nodes: tuple[str, ...] = ()
        """Ids of the nodes on which the worker is."""
        self.name = ""
        self.pid = 0
        self.status = NodeStatus()
        self.facts = NodeFacts(preflight=None, begun=frozenset())
        self.handle: NodeHandle | None = None
        self.made: list[tuple[str, int]] = []
        """Run id and index of the shards that were fetched from this worker."""
        self.rollouts_fetched = 0
        self._cluster = cluster
        self._need = need
        self._order = order
        self._events = events
        self._silent_s = silent_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"node-{number}", daemon=True)

    @property
    def works(self) -> bool:
        """Whether there is a worker, which starts or generates."""
        return self.handle is not None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Have the worker end in good order. ``join`` waits for that."""
        self._stop.set()

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)

    def kill(self) -> None:
        """End the worker at once."""
        self._stop.set()
        if (handle := self.handle) is not None:
            handle.end()

    def call(self, method: str, *given: Any) -> Any:
        """Call the worker. Raises NodeGone."""
        if (handle := self.handle) is None:
            raise NodeGone("it was given up")
        return handle.call(method, *given, limit_s=time_limit(self._silent_s))

    def _run(self) -> None:
        budget = RestartBudget()
        while not self._stop.is_set():
            placement = self._cluster.place(self._need, self._events.unusable())
            try:
                nodes = None
                while nodes is None and not self._stop.is_set():
                    nodes = placement.wait(PLACE_SECONDS)
                # two links may be given the same node, as neither knew of the other when it asked
                if nodes is not None and self._events.claim(self, nodes):
                    self._begin(placement.start())
                    self._serve(budget)
            except NodeGone as error:
                self._events.lost(self, str(error))
                self._stop.wait(budget.failed() or 30.0)
            except NodeUnfit as error:
                self._events.unfit(self, error)
            except Exception as error:
                self._events.failed(error)
                return
            finally:
                if (handle := self.handle) is not None:
                    self.handle = None
                    handle.end()
                placement.remove()
                self.nodes = ()

    def _begin(self, handle: NodeHandle) -> None:
        self.status, self.facts = NodeStatus(), NodeFacts(preflight=None, begun=frozenset())
        self.made, self.rollouts_fetched = [], 0
        self.handle = handle
        told = handle.call("identity", limit_s=time_limit(START_SECONDS))
        self.name, self.pid = told["node"], told["pid"]
        check_software(told)
        handle.call("begin", self._order, limit_s=time_limit(self._silent_s))

    def _serve(self, budget: RestartBudget) -> None:
        seen, asked_to_stop = 0, False
        while True:
            if self._stop.is_set() and not asked_to_stop:
                asked_to_stop = True
                self.call("stop")
            elif orders := self._events.next_shards(self):
                self.call("give", orders)
            before = self.status.state
            report: NodeReport = self.call("report", seen, REPORT_SECONDS)
            if report.status.state == "generating" != before:
                self.facts = self.call("facts")
            if report.status.rollouts > self.status.rollouts:
                budget.progressed()
            seen, self.status = report.number, report.status
            self._events.reported(self, report)
            if self.status.state == "ended":
                self._events.ended(self, self.call("telemetry"))
                return
            if self.status.state in ("refused", "failed"):
                error = self.status.error or {"type": "HarvestError", "message": "it ended"}
                raise NodeUnfit(error["type"], error["message"])
