"""The workers on the nodes of one replica, as one worker: all nodes are checked, and then the first starts the engine.

The loss of one is the loss of all: processes that compute together stand still when one is gone, and vLLM may wait for
it. What runs on the nodes ends with the placement, whatever the engine does.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from tasks.fleet.cluster import NodeGone, NodeHandle
from tasks.fleet.node_at_work import NodeUnfit
from tasks.fleet.node_link import REPORT_SECONDS, check_software
from tasks.fleet.node_order import NodeOrder
from tasks.fleet.node_status import News, NodeFacts, NodeReport
from tasks.fleet.node_totals import merge_preflights
from tasks.fleet.span_telemetry import join_telemetry

LAST_SECONDS = 10.0
"""How long the other nodes have to send their telemetry, after the engine has ended."""


class NodeSpan:
    """One worker for each of ``nodes``, which are ids, in one order. Its handle is that of the first, with the others'.

    ``begin`` begins on the others, and on the first once those are ready. Reports, facts and telemetry are of all.
    Raises NodeUnfit, which names the node, when one cannot work.
    """

    def __init__(self, handles: Sequence[NodeHandle], nodes: tuple[str, ...]) -> None:
        self._first, *self._others = handles
        self._handles = handles
        self._nodes = nodes
        self._names: list[str] = []
        self._seen = [0] * len(self._others)
        self._order: NodeOrder | None = None
        """What the first is to begin with; None once it has begun."""

    def call(self, method: str, *given: Any, limit_s: float) -> Any:
        match method:
            case "identity":
                return self._identity(limit_s)
            case "begin":
                [self._order] = given
                for index, other in enumerate(self._others, start=1):
                    self._call(index, other, "begin", self._order, limit_s=limit_s)
                return None
            case "report":
                return self._report(*given, limit_s=limit_s)
            case "facts":
                return self._facts(limit_s)
            case "telemetry":
                return self._telemetry(limit_s)
        return self._first.call(method, *given, limit_s=limit_s)

    def end(self) -> None:
        for handle in self._handles:
            handle.end()

    def _call(self, index: int, handle: NodeHandle, method: str, *given: Any, limit_s: float) -> Any:
        """Call a worker; say of a lost one which it is."""
        try:
            return handle.call(method, *given, limit_s=limit_s)
        except NodeGone as error:
            raise NodeGone(f"its node {self._names[index]} is gone: {error}") from None

    def _identity(self, limit_s: float) -> dict[str, Any]:
        told = [handle.call("identity", limit_s=limit_s) for handle in self._handles]
        self._names = [each["node"] for each in told]
        for index, each in enumerate(told):
            check_software(each, (self._nodes[index],))
        return {**told[0], "node": "+".join(self._names)}

    def _report(self, seen: int, wait_s: float, *, limit_s: float) -> NodeReport:
        told: list[News] = []
        waiting = []
        for index, other in enumerate(self._others, start=1):
            report: NodeReport = self._call(index, other, "report", self._seen[index - 1], 0.0, limit_s=limit_s)
            self._seen[index - 1] = report.number
            told += [f"on {self._names[index]}: {item}" for item in report.news if isinstance(item, str)]
            if report.status.state != "generating":
                self._check(index, report)
                waiting.append(index)
        if self._order is not None and not waiting:
            self._begin_first(self._order, limit_s)
            self._order = None
        report = self._call(0, self._first, "report", seen, wait_s, limit_s=limit_s)
        if self._order is None:
            self._check(0, report)
        gpus = report.status.gpus * len(self._nodes)
        status = replace(report.status, gpus=gpus, machines=tuple(self._names))
        return replace(report, status=status, news=(*told, *report.news))

    def _check(self, index: int, report: NodeReport) -> None:
        status = report.status
        if status.state not in ("refused", "failed"):
            return
        error = status.error or {"type": "HarvestError", "message": "it ended"}
        if status.state == "refused":
            # one that does not suit is left out, and those beside it find others
            message = f"node {self._names[index]}: {error['message']}"
            raise NodeUnfit(error["type"], message, (self._nodes[index],))
        raise NodeUnfit(error["type"], error["message"])

    def _begin_first(self, order: NodeOrder, limit_s: float) -> None:
        files: dict[str, str] = self._call(1, self._others[0], "files", limit_s=limit_s)
        for index, other in enumerate(self._others[1:], start=2):
            if (here := self._call(index, other, "files", limit_s=limit_s)) != files:
                differing = "; ".join(f"{name} is {path}" for name, path in here.items() if files.get(name) != path)
                raise NodeUnfit(
                    "ConfigError",
                    f"node {self._names[index]}: the nodes of one replica have files at different paths: {differing}. "
                    "Give all of them the same paths; for models of the hub the same HF_HOME",
                    (self._nodes[index],),
                )
        self._call(0, self._first, "expect", files, limit_s=limit_s)
        self._call(0, self._first, "begin", order, limit_s=limit_s)

    def _facts(self, limit_s: float) -> NodeFacts:
        found = [self._call(index, each, "facts", limit_s=limit_s) for index, each in enumerate(self._handles)]
        checked = {name: facts.preflight for name, facts in zip(self._names, found, strict=True) if facts.preflight}
        return NodeFacts(preflight=merge_preflights(checked) if checked else None, begun=found[0].begun)

    def _telemetry(self, limit_s: float) -> bytes | None:
        first: bytes | None = self._first.call("telemetry", limit_s=limit_s)
        sampled: list[bytes | None] = []
        deadline = time.monotonic() + LAST_SECONDS
        for index, other in enumerate(self._others, start=1):
            # the run is done, and is not made again for the lack of a figure
            with suppress(NodeGone):
                self._call(index, other, "stop", limit_s=limit_s)
                state = ""
                while state not in ("ended", "failed") and time.monotonic() < deadline:
                    report: NodeReport = self._call(
                        index, other, "report", self._seen[index - 1], REPORT_SECONDS, limit_s=limit_s
                    )
                    state = report.status.state
                sampled.append(self._call(index, other, "telemetry", limit_s=limit_s))
        return join_telemetry(first, sampled) if len(sampled) == len(self._others) else None
