"""The pool's side of one node: a thread that finds a place for a worker, feeds it, and finds another if it is lost."""

import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tasks.fleet.cluster import Cluster, Need, NodeGone, NodeHandle, Placement
from tasks.fleet.node_at_work import NodeAtWork, NodeUnfit
from tasks.fleet.node_identity import differences, software
from tasks.fleet.node_order import NodeOrder
from tasks.fleet.node_roster import NodeRoster
from tasks.fleet.node_status import NodeReport
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


def check_software(told: Mapping[str, Any], nodes: tuple[str, ...] = ()) -> None:
    """Raise NodeUnfit when the software that a worker told of is not that of the collection."""
    if differing := differences(told["software"], software()):
        raise NodeUnfit(
            "ConfigError",
            f"its software is not that of the collection: {'; '.join(differing)}. Install the same on every node",
            nodes,
        )


class NodeLink:
    """Keeps one worker at work until ``stop``."""

    def __init__(
        self, number: int, cluster: Cluster, need: Need, order: NodeOrder, roster: NodeRoster, silent_s: float
    ) -> None:
        self._number = number
        self._cluster = cluster
        self._need = need
        self._order = order
        self._roster = roster
        self._silent_s = silent_s
        self._node: NodeAtWork | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"node-{number}", daemon=True)

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
        self._end_worker()

    def _run(self) -> None:
        budget = RestartBudget()
        while not self._stop.is_set():
            try:
                placement = self._cluster.place(self._need, self._roster.unusable())
                try:
                    self._work(placement, budget)
                finally:
                    self._end_worker()
                    placement.remove()
            except NodeGone as error:
                self._roster.lost(self._node, str(error))
                self._stop.wait(budget.failed() or 30.0)
            except NodeUnfit as error:
                assert self._node is not None
                self._roster.refused(self._node, error)
            except Exception as error:
                self._roster.fail(error)
                return
            finally:
                self._node = None

    def _end_worker(self) -> None:
        if (node := self._node) is not None and node.handle is not None:
            node.handle.end()

    def _work(self, placement: Placement, budget: RestartBudget) -> None:
        nodes = None
        while nodes is None and not self._stop.is_set():
            nodes = placement.wait(PLACE_SECONDS)
        if nodes is None:
            return
        node = NodeAtWork(place=self._number, nodes=nodes, silent_s=self._silent_s)
        # two links may be given the same node, as neither knew of the other when it asked
        if self._roster.claim(node):
            self._node = node
            node.handle = placement.start()
            self._begin(node, node.handle)
            self._serve(node, budget)

    def _begin(self, node: NodeAtWork, handle: NodeHandle) -> None:
        told = handle.call("identity", limit_s=time_limit(START_SECONDS))
        node.name = told["node"]
        check_software(told)
        # another worker on the same node goes on at the rung that the first one found
        forget = self._order.forget_oom_rung and self._roster.is_first_on_node(node)
        node.call("begin", replace(self._order, forget_oom_rung=forget))

    def _serve(self, node: NodeAtWork, budget: RestartBudget) -> None:
        asked_to_stop = False
        while node.status.state != "ended":
            if self._stop.is_set() and not asked_to_stop:
                asked_to_stop = True
                node.call("stop")
            for order in self._roster.next_shards(node):
                node.call("give", order)
            report: NodeReport = node.call("report", REPORT_SECONDS, time.time())
            if begins := report.status.state == "generating" != node.status.state:
                node.facts = node.call("facts")
            if report.status.rollouts > node.status.rollouts:
                budget.progressed()
            node.status = report.status
            if begins:
                self._roster.begins(node)
            self._roster.reported(node, report)
            if node.status.state in ("refused", "failed"):
                error = node.status.error or {"type": "HarvestError", "message": "it ended"}
                raise NodeUnfit(error["type"], error["message"])
        self._roster.ended(node, node.call("telemetry", time.time()))
