"""The workers on the nodes of one replica, as one worker: all nodes are checked, then the first's engine starts.

The loss of one is the loss of all: processes that compute together stand still when one is gone, and vLLM may wait for
it. What runs on the nodes ends with the placement, whatever the engine does.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from tasks.fleet.cluster import NodeGone, NodeHandle, NodeUnfit
from tasks.fleet.node_link import check_software
from tasks.fleet.node_order import differences
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
        self._of_all: dict[str, Callable[[list[Any]], Any]] = {
            "identity": self._identity,
            "begin": lambda answers: None,
            "report": self._report,
            "facts": self._facts,
            "end": join_telemetry,
        }

    def call(self, method: str, *given: Any, limit_s: float) -> Any:
        if (join := self._of_all.get(method)) is None:
            return self._call(0, method, *given, limit_s=limit_s)
        return join([self._call(index, method, *given, limit_s=limit_s) for index in range(len(self._handles))])

    def end(self) -> None:
        for handle in self._handles:
            handle.end()

    def _call(self, index: int, method: str, *given: Any, limit_s: float) -> Any:
        """Call a worker; say of a lost one which it is."""
        try:
            return self._handles[index].call(method, *given, limit_s=limit_s)
        except NodeGone as error:
            raise NodeGone(f"its node {self._names[index]} is gone: {error}") from None

    def _identity(self, told: list[dict[str, Any]]) -> dict[str, Any]:
        self._names = tuple(each["node"] for each in told)
        for node, each in zip(self._nodes, told, strict=True):
            check_software(each, (node,))
        return {**told[0], "node": "+".join(self._names)}

    def _report(self, reports: list[NodeReport]) -> NodeReport:
        status, news = reports[0].status, []
        for node, name, report in zip(self._nodes, self._names, reports, strict=True):
            state, error = report.status.state, report.status.error
            if error is not None:
                # one that does not suit is left out alone, and those beside it find others
                at_fault = (node,) if state == "refused" else self._nodes
                raise NodeUnfit(error["type"], f"node {name}: {error['message']}", at_fault)
            if state == "starting":
                status = replace(status, state="starting")
            if report is not reports[0]:
                news += [f"on {name}: {item}" for item in report.news]
        status = replace(status, gpus=status.gpus * len(self._nodes), machines=self._names)
        return replace(reports[0], status=status, news=(*news, *reports[0].news))

    def _facts(self, found: list[NodeFacts]) -> NodeFacts:
        for node, name, facts in zip(self._nodes, self._names, found, strict=True):
            # vLLM gives all of its processes the same paths
            if differing := differences(facts.files, found[0].files):
                raise NodeUnfit(
                    "ConfigError",
                    f"node {name}: the nodes of one replica have files at different paths: {'; '.join(differing)}. "
                    "Give all of them the same paths; for models of the hub the same HF_HOME",
                    (node,),
                )
        checked = {name: facts.preflight for name, facts in zip(self._names, found, strict=True) if facts.preflight}
        return replace(found[0], preflight=merge_preflights(checked) if checked else None)
