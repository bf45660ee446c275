"""The pool's side of one node: a thread that finds a place for a worker, feeds it, and finds another if it is lost."""

import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tasks.fleet.cluster import Cluster, Need, NodeGone, NodeHandle, NodeUnfit, Placement
from tasks.fleet.node_order import NodeOrder, differences, software
from tasks.fleet.node_roster import NodeRoster
from tasks.fleet.node_status import NodeAtWork, NodeReport
from tasks.generation.recovery import RestartBudget
from tasks.time_limits import time_limit

REPORT_SECONDS = 0.25
"""How long a worker without news waits before it reports. So long may a shard wait for it."""
PLACE_SECONDS = 1.0
START_SECONDS = 300.0
"""How long the process of a worker may take to start and to say who it is."""
SILENT_SECONDS = 60.0
"""A worker that has not answered for so long is given up. It answers also while engines start or hang."""


def check_software(told: Mapping[str, Any], nodes: tuple[str, ...] = ()) -> None:
    """Raise NodeUnfit when the software that a worker told of is not that of the collection."""
    if differing := differences(told["software"], software()):
        raise NodeUnfit(
            "ConfigError",
            f"its software is not that of the collection: {'; '.join(differing)}. Install the same on every node",
            nodes,
        )


class NodeLink(threading.Thread):
    """Keeps one worker at work until ``stop`` or ``kill``."""

    def __init__(
        self, number: int, cluster: Cluster, need: Need, order: NodeOrder, roster: NodeRoster, silent_s: float
    ) -> None:
        super().__init__(name=f"node-{number}", daemon=True)
        self._number = number
        self._cluster = cluster
        self._need = need
        self._order = order
        self._roster = roster
        self._silent_s = silent_s
        self._node: NodeAtWork | None = None
        self._over = threading.Event()

    def stop(self) -> None:
        """Have the worker end in good order. ``join`` waits for that."""
        self._over.set()

    def kill(self) -> None:
        """End the worker at once."""
        self._over.set()
        if (node := self._node) is not None and node.handle is not None:
            node.handle.end()

    def run(self) -> None:
        budget = RestartBudget()
        while not self._over.is_set():
            try:
                placement = self._cluster.place(self._need, self._roster.unusable())
                try:
                    self._work(placement, budget)
                finally:
                    placement.remove()
            except NodeGone as error:
                self._roster.lost(self._node, str(error))
                self._over.wait(budget.failed() or 30.0)
            except NodeUnfit as error:
                assert self._node is not None
                self._roster.refused(self._node, error)
            except Exception as error:
                self._roster.close(error)
                return
            finally:
                self._node = None

    def _work(self, placement: Placement, budget: RestartBudget) -> None:
        nodes = None
        while nodes is None:
            if self._over.is_set():
                return
            nodes = placement.wait(PLACE_SECONDS)
        node = NodeAtWork(place=self._number, nodes=nodes, silent_s=self._silent_s)
        # two links may be given the same node, as neither knew of the other when it asked
        if self._roster.claim(node):
            self._node = node
            node.handle = placement.start()
            try:
                self._begin(node, node.handle)
                self._serve(node, budget)
            finally:
                node.handle.end()

    def _begin(self, node: NodeAtWork, handle: NodeHandle) -> None:
        told = handle.call("identity", limit_s=time_limit(START_SECONDS))
        node.name = told["node"]
        check_software(told)
        # another worker on the same node goes on at the rung that the first one found
        forget = self._order.forget_oom_rung and self._roster.is_first_on_node(node)
        node.call("begin", replace(self._order, forget_oom_rung=forget), time.time())

    def _serve(self, node: NodeAtWork, budget: RestartBudget) -> None:
        while not self._over.is_set():
            for order in self._roster.next_shards(node):
                node.call("give", order)
            self._hear(node, budget)
        telemetry = node.call("end")
        self._hear(node, budget)
        self._roster.ended(node, telemetry)

    def _hear(self, node: NodeAtWork, budget: RestartBudget) -> None:
        report: NodeReport = node.call("report", REPORT_SECONDS)
        if begins := report.status.state == "generating" != node.status.state:
            node.facts = node.call("facts")
        if report.status.rollouts > node.status.rollouts:
            budget.progressed()
        node.status = report.status
        if begins:
            self._roster.begins(node)
        self._roster.reported(node, report)
        if (error := node.status.error) is not None:
            raise NodeUnfit(error["type"], error["message"])
