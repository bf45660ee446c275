"""A real Ray cluster on this machine: a head without processors, and nodes that tests add and kill."""

import contextlib
import itertools
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.left_behind import outlives_the_test

REPLICA = "tasks.generation.replica"
_STORE_BYTES = 80 << 20
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # a node would start a process per processor before anybody asks for one
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
}


@dataclass
class RayNode:
    """One raylet with what runs below it."""

    name: str
    home: Path
    node: Any

    @property
    def raylet(self) -> psutil.Process:
        [started] = self.node.all_processes["raylet"]
        return psutil.Process(started.process.pid)

    @property
    def actor(self) -> psutil.Process:
        return self.below("ray::NodeWorker")[0]

    @property
    def has_replica(self) -> bool:
        return bool(self.below(REPLICA))

    def below(self, *words: str) -> list[psutil.Process]:
        """Return the node's processes whose command lines have one of ``words``."""
        found = []
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in self.raylet.children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if any(word in " ".join(process.cmdline()) for word in words):
                        found.append(process)
        return found


@dataclass
class RayNodes:
    """The cluster, and the nodes that one test has added."""

    cluster: Any
    nodes: list[RayNode] = field(default_factory=list)

    @property
    def address(self) -> str:
        address: str = self.cluster.address
        return address

    def add(self, name: str, home: Path, *, gpus: int = 0, **variables: str) -> RayNode:
        """Start a node whose workers have these ``variables`` and work below ``home``."""
        own = {"HARVEST_NODE": name, "HARVEST_HOME": str(home / name), **variables}
        started = self.cluster.add_node(
            num_cpus=1, num_gpus=gpus, object_store_memory=_STORE_BYTES, env_vars=own, wait=True
        )
        node = RayNode(name, home / name, started)
        self.nodes.append(node)
        return node

    def kill(self, node: RayNode) -> None:
        """End a node as if its machine lost power."""
        below = [node.raylet, *node.raylet.children(recursive=True)]
        self.nodes.remove(node)
        for process in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        # else the cluster's own bookkeeping has a node without a process
        self.cluster.remove_node(node.node, allow_graceful=False)

    def clear(self) -> None:
        """End the nodes of a test."""
        for node in list(self.nodes):
            self.kill(node)


@contextlib.contextmanager
def running_cluster() -> Iterator[RayNodes]:
    """A cluster of a head alone. Skips the test where Ray is not installed."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    cluster = cluster_utils.Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "object_store_memory": _STORE_BYTES,
            "include_dashboard": False,
            # processes for a launcher of machines and for what drivers print
            "no_monitor": True,
            "include_log_monitor": False,
        },
    )
    for number, handler in handlers.items():
        signal.signal(number, handler)
    for process in _processes(cluster.head_node):
        outlives_the_test(process.pid)
    nodes = RayNodes(cluster)
    try:
        yield nodes
    finally:
        nodes.clear()
        below = [each for root in _processes(cluster.head_node) for each in [root, *root.children(recursive=True)]]
        cluster.shutdown()
        # what is below a head that a test has killed waits a minute for it
        for process in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def _processes(node: Any) -> list[psutil.Process]:
    """What was started for a node and lives."""
    found = []
    for started in itertools.chain.from_iterable(node.all_processes.values()):
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(psutil.Process(started.process.pid))
    return found


@pytest.fixture(scope="module")
def ray_head() -> Iterator[RayNodes]:
    with running_cluster() as nodes:
        yield nodes


@pytest.fixture
def ray_nodes(ray_head: RayNodes) -> Iterator[RayNodes]:
    """The module's cluster, without nodes before and after each test."""
    yield ray_head
    ray_head.clear()
