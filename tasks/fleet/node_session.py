"""Runs one session of generation on the nodes of a Ray cluster."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

from tasks.fleet.node_pool import NodePool
from tasks.fleet.ray_address import LOCAL, address_of
from tasks.fleet.ray_cluster import ray_cluster
from tasks.generation.recovery import PoolEvent
from tasks.generation.replica_pool import ReplicaPool
from tasks.plan.run_plan import RunPlan

ShardPool = ReplicaPool | NodePool
"""What generates shards, as a flow sees it: the replicas of this machine, or those of several nodes together."""


@contextlib.contextmanager
def node_session(
    plans: Sequence[RunPlan],
    *,
    nodes: int,
    ray: str | None,
    forget_oom_rung: bool,
    listener: Callable[[PoolEvent], None],
    log: Callable[[str], None],
) -> Iterator[NodePool]:
    """Yield a pool of up to ``nodes`` nodes for ``plans``. Raises ConfigError when the cluster cannot be used."""
    if nodes > 1 and address_of(ray) == LOCAL:
        log(
            f"warning: {nodes} nodes are asked for, and without --ray there is one: this machine. For several, start "
            "Ray on each of them and give --ray HOST:PORT of its head, or auto if this machine is part of it"
        )
        nodes = 1
    with (
        ray_cluster(ray, plans[0].paths.logs / "ray.log") as cluster,
        NodePool(plans, cluster, nodes, forget_oom_rung=forget_oom_rung, listener=listener, log=log) as pool,
    ):
        yield pool
