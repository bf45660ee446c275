"""The nodes of one replica on Ray: a placement group with a bundle for each node's worker and one for each GPU.

vLLM's Ray executor wants GPUs in bundles of one, and Ray has no strategy that spreads several bundles evenly over
several nodes. So nodes are found by a group with one bundle per node, which Ray's autoscaler sees while it waits. Then
a group is made of their GPUs one by one. Another may be faster in between: then the search begins again.
"""

import contextlib
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from tasks.fleet.cluster import Need
from tasks.fleet.node_link import START_SECONDS
from tasks.fleet.node_span import NodeSpan
from tasks.fleet.ray_handle import CONCURRENCY, RayHandle, gone
from tasks.generation.ray_group import group_variables
from tasks.time_limits import time_limit

TAKEN_SECONDS = 10.0
"""Within so long the GPUs of the nodes that were found are reserved, or another has taken them."""
NODE_LABEL = "ray.io/node-id"


class RaySpanPlacement:
    """A place for one replica on ``need.nodes`` nodes. ``worker`` makes the worker of a node, as SpanWorker does."""

    def __init__(self, need: Need, besides: Collection[str], worker: Callable[..., object]) -> None:
        self._need = need
        self._worker = worker
        self._besides = sorted(besides)
        self._nodes: tuple[str, ...] = ()
        self._found_at = 0.0
        self._group: Any = None
        self._search()

    def wait(self, seconds: float) -> tuple[str, ...] | None:
        with gone():
            if not self._group.wait(seconds):
                if self._nodes and time.monotonic() - self._found_at > time_limit(TAKEN_SECONDS):
                    self.remove()
                    self._search()
                return None
            if not self._nodes:
                self._reserve()
                return None
        return self._nodes

    def start(self) -> NodeSpan:
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        nodes, gpus = self._need.nodes, self._need.gpus
        with gone():
            places = [PlacementGroupSchedulingStrategy(self._group, index) for index in range(nodes * (1 + gpus))]
            ask = ray.remote(_gpu_of_bundle)
            asked = [
                ask.options(num_cpus=0, num_gpus=1, scheduling_strategy=place).remote() for place in places[nodes:]
            ]
            found: list[str] = ray.get(asked, timeout=time_limit(START_SECONDS))
            group = group_variables(ray.get_runtime_context().gcs_address, self._group.id.hex())
            actor = ray.remote(self._worker)
            workers = []
            for index in range(nodes):
                # the GPUs are for the processes that vLLM starts in their bundles
                options = actor.options(
                    num_cpus=1,
                    num_gpus=0,
                    max_restarts=0,
                    max_concurrency=CONCURRENCY,
                    scheduling_strategy=places[index],
                )
                shown = {"CUDA_VISIBLE_DEVICES": ",".join(found[index * gpus : (index + 1) * gpus])}
                workers.append(RayHandle(options.remote({**group, **shown}, index == 0)))
        return NodeSpan(workers, self._nodes)

    def remove(self) -> None:
        from ray.util.placement_group import remove_placement_group

        with contextlib.suppress(Exception):
            remove_placement_group(self._group)

    def _search(self) -> None:
        elsewhere = {NODE_LABEL: f"!in({','.join(self._besides)})"} if self._besides else {}
        each = {"CPU": 1.0, "GPU": float(self._need.gpus)}
        self._nodes = ()
        self._make([each] * self._need.nodes, [elsewhere] * self._need.nodes, strategy="STRICT_SPREAD")

    def _reserve(self) -> None:
        from ray.util.placement_group import placement_group_table

        placed: dict[int, str] = placement_group_table(self._group)["bundles_to_node_id"]
        self._nodes = tuple(placed[index] for index in range(self._need.nodes))
        self._found_at = time.monotonic()
        self.remove()
        where = [*self._nodes, *(node for node in self._nodes for _ in range(self._need.gpus))]
        gpus: list[dict[str, float]] = [{"GPU": 1.0}] * (self._need.nodes * self._need.gpus)
        self._make([{"CPU": 1.0}] * self._need.nodes + gpus, [{NODE_LABEL: node} for node in where], strategy="PACK")

    def _make(self, bundles: Sequence[dict[str, float]], selectors: Sequence[dict[str, str]], *, strategy: str) -> None:
        from ray.util.placement_group import placement_group

        with gone():
            self._group = placement_group(
                list(bundles), strategy=strategy, bundle_label_selector=list(selectors) if any(selectors) else None
            )


def _gpu_of_bundle() -> str:
    """Return the GPU of the bundle in which this runs, as CUDA_VISIBLE_DEVICES names it."""
    import ray

    [gpu] = ray.get_runtime_context().get_accelerator_ids()["GPU"]
    return str(gpu)
