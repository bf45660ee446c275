"""The worker of a node that holds a part of a replica: the first node's has the engine, the others' guard their node.

vLLM's processes on the other nodes are in the placement group, beside this worker: see ray_span.py. What a node must
have is checked on each of them, before the engine starts.
"""

import contextlib
import os
from collections.abc import Mapping

from tasks.errors import ConfigError
from tasks.fleet.node_identity import differences
from tasks.fleet.node_order import NodeOrder
from tasks.fleet.node_worker import NodeWorker
from tasks.node.telemetry import TelemetrySampler
from tasks.plan.run_plan import RunPlan


class SpanWorker(NodeWorker):
    """A NodeWorker with the ``variables`` in its environment. Only the ``first`` of a span generates."""

    def __init__(self, variables: Mapping[str, str], first: bool) -> None:
        os.environ.update(variables)
        super().__init__()
        self._first = first
        self._expected: dict[str, str] | None = None

    def files(self) -> dict[str, str]:
        """Return where this node has what the engine's processes load, once it is checked."""
        return _files(tuple(self._plans.values()))

    def expect(self, files: Mapping[str, str]) -> None:
        """Refuse this node when it has ``files`` elsewhere: all processes of an engine get the same paths."""
        self._expected = dict(files)

    def _open(self, order: NodeOrder, stack: contextlib.ExitStack) -> tuple[RunPlan, ...]:
        plans = super()._open(order, stack)
        if self._expected is not None and (differing := differences(self._expected, _files(plans))):
            raise ConfigError(
                f"the nodes of one replica have files at different paths: {'; '.join(differing)}. Give all of them the "
                "same paths; for models of the hub the same HF_HOME"
            )
        return plans

    def _generate(self, plans: tuple[RunPlan, ...]) -> None:
        if self._first:
            super()._generate(plans)
            return
        with TelemetrySampler(plans[0].paths.telemetry, plans[0].profile, list):
            self._news.set(state="generating")
            self._over.wait()


def _files(plans: tuple[RunPlan, ...]) -> dict[str, str]:
    models = {f"the model of {plan.run_id}": str(plan.model.path) for plan in plans}
    adapters = {f"the adapter of {plan.run_id}": str(plan.adapter.path) for plan in plans if plan.adapter is not None}
    return models | adapters
