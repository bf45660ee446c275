"""Places on the nodes of a Ray cluster: a placement group for each pool of replicas, and an actor on each node of it.

vLLM's Ray executor wants GPUs in bundles of one, and Ray has no strategy that spreads several bundles evenly over
several nodes. So the nodes of one replica are found by a group with one bundle per node, which Ray's autoscaler sees
while it waits. Then a group is made of their GPUs one by one. Another may be faster in between: then the search begins
again.
"""

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from tasks.fleet.cluster import Need, NodeGone, NodeHandle
from tasks.fleet.node_link import START_SECONDS
from tasks.fleet.node_span import NodeSpan
from tasks.generation.ray_group import group_variables
from tasks.time_limits import time_limit

CONCURRENCY = 16
"""Calls that a worker handles at the same time: one report, shards that come in, and fetches."""
TAKEN_SECONDS = 10.0
"""Within so long the GPUs of the nodes that were found are reserved, or another has taken them."""
NODE_LABEL = "ray.io/node-id"


class RayPlacement:
    """A place on ``need.nodes`` nodes but those ``besides``. ``worker`` makes a node's worker, as NodeWorker does."""

    def __init__(self, need: Need, besides: Collection[str], worker: Callable[..., object]) -> None:
        self._need = need
        self._worker = worker
        self._elsewhere = {NODE_LABEL: f"!in({','.join(sorted(besides))})"} if besides else {}
        self._nodes: tuple[str, ...] = ()
        self._search()

    def wait(self, seconds: float) -> tuple[str, ...] | None:
        from ray.util.placement_group import placement_group_table

        with gone():
            if not self._group.wait(seconds):
                if self._nodes and time.monotonic() - self._found_at > time_limit(TAKEN_SECONDS):
                    self.remove()
                    self._search()
                return None
            if not self._nodes:
                placed: dict[int, str] = placement_group_table(self._group)["bundles_to_node_id"]
                self._nodes = tuple(placed[index] for index in range(self._need.nodes))
                if self._need.nodes > 1:
                    self._reserve()
                    return None
        return self._nodes

    def start(self) -> NodeHandle:
        with gone():
            return self._start(0, gpus=self._need.gpus) if self._need.nodes == 1 else self._start_span()

    def remove(self) -> None:
        from ray.util.placement_group import remove_placement_group

        with contextlib.suppress(Exception):
            remove_placement_group(self._group)

    def _start(self, bundle: int, *, gpus: int, **given: Any) -> "RayHandle":
        import ray

        actor = ray.remote(self._worker).options(
            num_cpus=1, num_gpus=gpus, max_concurrency=CONCURRENCY, scheduling_strategy=self._bundle(bundle)
        )
        return RayHandle(actor.remote(**given))

    def _start_span(self) -> NodeSpan:
        import ray

        nodes, gpus = self._need.nodes, self._need.gpus
        ask = ray.remote(_gpu_of_bundle)
        asked = [
            ask.options(num_cpus=0, num_gpus=1, scheduling_strategy=self._bundle(index)).remote()
            for index in range(nodes, nodes * (1 + gpus))
        ]
        found: list[str] = ray.get(asked, timeout=time_limit(START_SECONDS))
        group = group_variables(ray.get_runtime_context().gcs_address, self._group.id.hex())
        shown = [",".join(found[index * gpus : (index + 1) * gpus]) for index in range(nodes)]
        # the GPUs are for the processes that vLLM starts in their bundles
        workers = [
            self._start(index, gpus=0, generates=index == 0, CUDA_VISIBLE_DEVICES=shown[index], **group)
            for index in range(nodes)
        ]
        return NodeSpan(workers, self._nodes)

    def _search(self) -> None:
        self._nodes = ()
        each = {"CPU": 1.0} | ({"GPU": float(self._need.gpus)} if self._need.gpus else {})
        self._make([each] * self._need.nodes, [self._elsewhere] * self._need.nodes, strategy="STRICT_SPREAD")

    def _reserve(self) -> None:
        self._found_at = time.monotonic()
        self.remove()
        where = [*self._nodes, *(node for node in self._nodes for _ in range(self._need.gpus))]
        gpus: list[dict[str, float]] = [{"GPU": 1.0}] * (self._need.nodes * self._need.gpus)
        self._make([{"CPU": 1.0}] * self._need.nodes + gpus, [{NODE_LABEL: node} for node in where], strategy="PACK")

    def _make(self, bundles: Sequence[dict[str, float]], selectors: Sequence[dict[str, str]], *, strategy: str) -> None:
        from ray.util.placement_group import placement_group

        with gone():
            self._group: Any = placement_group(
                list(bundles), strategy=strategy, bundle_label_selector=list(selectors) if any(selectors) else None
            )

    def _bundle(self, index: int) -> Any:
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        return PlacementGroupSchedulingStrategy(self._group, index)


class RayHandle:
    """An actor with a worker."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def call(self, method: str, *given: Any, limit_s: float) -> Any:
        import ray

        with gone():
            return ray.get(getattr(self._actor, method).remote(*given), timeout=limit_s)

    def end(self) -> None:
        import ray

        with contextlib.suppress(Exception):
            ray.kill(self._actor)


@contextlib.contextmanager
def gone() -> Iterator[None]:
    """Make NodeGone of what Ray raises about a node or the cluster."""
    from ray import exceptions

    try:
        yield
    except exceptions.GetTimeoutError:
        raise NodeGone("it does not answer") from None
    except exceptions.RayTaskError as error:
        raise NodeGone(f"its worker failed: {error.cause!r}") from None
    except (exceptions.RayError, RuntimeError, ValueError, ConnectionError) as error:
        # the others are what Ray raises of a connection that is closing
        raise NodeGone(_in_short(str(error))) from None


def _in_short(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith(("class_name", "actor_id", "namespace", "ip", "pid"))]
    return " ".join(said)[:300].rstrip(".") or "it ended"


def _gpu_of_bundle() -> str:
    """Return the GPU of the bundle in which this runs, as CUDA_VISIBLE_DEVICES names it."""
    import ray

    [gpu] = ray.get_runtime_context().get_accelerator_ids()["GPU"]
    return str(gpu)
