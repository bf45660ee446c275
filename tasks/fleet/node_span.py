"""The workers on the nodes of one replica, as one worker: all nodes are checked, then the first's engine starts.

The loss of one is the loss of all: processes that compute together stand still when one is gone, and vLLM may wait for
it. What runs on the nodes ends with the placement, whatever the engine does.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import polars as pl

from tasks.fleet.cluster import NodeGone, NodeHandle
from tasks.fleet.node_at_work import NodeUnfit
from tasks.fleet.node_identity import differences
from tasks.fleet.node_link import check_software
from tasks.fleet.node_status import NodeFacts, NodeReport
from tasks.fleet.node_totals import join_telemetry, merge_preflights


class NodeSpan:
    """One worker for each of ``nodes``, which are ids, in one order. Its handle is that of the first, with the others'.

    Reports, facts and telemetry are of all. It generates once all are ready: an engine starts with its first shard.
    Raises NodeUnfit, which names the node, when one cannot work.
    """

    def __init__(self, handles: Sequence[NodeHandle], nodes: tuple[str, ...]) -> None:
        self._handles = handles
        self._nodes = self._names = nodes

    def call(self, method: str, *given: Any, limit_s: float) -> Any:
        match method:
            case "identity":
                return self._identity(limit_s)
            case "begin":
                return self._all("begin", *given, limit_s=limit_s)
            case "report":
                return self._report(*given, limit_s=limit_s)
            case "facts":
                return self._facts(limit_s)
            case "telemetry":
                return self._telemetry(*given, limit_s=limit_s)
        return self._call(0, method, *given, limit_s=limit_s)

    def end(self) -> None:
        for handle in self._handles:
            handle.end()

    def _call(self, index: int, method: str, *given: Any, limit_s: float) -> Any:
        """Call a worker; say of a lost one which it is."""
        try:
            return self._handles[index].call(method, *given, limit_s=limit_s)
        except NodeGone as error:
            raise NodeGone(f"its node {self._names[index]} is gone: {error}") from None

    def _all(self, method: str, *given: Any, limit_s: float) -> list[Any]:
        return [self._call(index, method, *given, limit_s=limit_s) for index in range(len(self._handles))]

    def _identity(self, limit_s: float) -> dict[str, Any]:
        told = self._all("identity", limit_s=limit_s)
        self._names = tuple(each["node"] for each in told)
        for node, each in zip(self._nodes, told, strict=True):
            check_software(each, (node,))
        return {**told[0], "node": "+".join(self._names)}

    def _report(self, wait_s: float, now: float, *, limit_s: float) -> NodeReport:
        others = range(1, len(self._handles))
        reports: list[NodeReport] = [self._call(index, "report", 0.0, now, limit_s=limit_s) for index in others]
        report: NodeReport = self._call(0, "report", wait_s, now, limit_s=limit_s)
        status = report.status
        told = []
        for index, each in enumerate([report, *reports]):
            self._check(index, each)
            if index:
                told += [f"on {self._names[index]}: {item}" for item in each.news if isinstance(item, str)]
            if each.status.state == "starting":
                status = replace(status, state="starting")
        status = replace(status, gpus=status.gpus * len(self._nodes), machines=self._names)
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

    def _facts(self, limit_s: float) -> NodeFacts:
        found: list[NodeFacts] = self._all("facts", limit_s=limit_s)
        for index, facts in enumerate(found):
            # vLLM gives all of its processes the same paths
            if differing := differences(facts.files, found[0].files):
                raise NodeUnfit(
                    "ConfigError",
                    f"node {self._names[index]}: the nodes of one replica have files at different paths: "
                    f"{'; '.join(differing)}. Give all of them the same paths; for models of the hub the same HF_HOME",
                    (self._nodes[index],),
                )
        checked = {name: facts.preflight for name, facts in zip(self._names, found, strict=True) if facts.preflight}
        return replace(found[0], preflight=merge_preflights(checked) if checked else None)

    def _telemetry(self, now: float, *, limit_s: float) -> pl.DataFrame | None:
        # the run is done, and is not made again for the lack of a figure
        with suppress(NodeGone):
            return join_telemetry(self._all("telemetry", now, limit_s=limit_s))
        return None
