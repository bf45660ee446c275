"""Runs one session of generation on the nodes of a Ray cluster."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

from tasks.comparison.baseline import AUTO
from tasks.errors import ConfigError
from tasks.fleet.node_pool import NodePool
from tasks.fleet.ray_cluster import check_address, ray_cluster
from tasks.generation.recovery import PoolEvent
from tasks.plan.run_plan import RunPlan


def check_nodes(nodes: int, ray: str | None, baseline: str | None) -> None:
    """Raise ConfigError when a run cannot be generated on ``nodes`` nodes of the Ray cluster at ``ray``."""
    if not on_nodes(nodes, ray):
        return
    if baseline == AUTO:
        raise ConfigError(
            "baseline is auto, which is generated where the collection runs, and the run is on nodes. Collect the "
            "baseline first, and give its run id"
        )
    check_address(ray)


def on_nodes(nodes: int, ray: str | None) -> bool:
    """Return whether Ray is asked for: by several nodes, or by a cluster."""
    return nodes > 1 or ray is not None


@contextlib.contextmanager
def node_session(
    plans: Sequence[RunPlan],
    *,
    nodes: int,
    ray: str | None,
    listener: Callable[[PoolEvent], None],
    log: Callable[[str], None],
) -> Iterator[NodePool]:
    """Yield a pool of up to ``nodes`` nodes for ``plans``. Raises ConfigError when the cluster cannot be used."""
    with (
        ray_cluster(ray, plans[0].paths.logs / "ray.log") as cluster,
        NodePool(plans, cluster, nodes, listener=listener, log=log) as pool,
    ):
        yield pool
