"""What a pool of nodes asks of a cluster: places for workers, and calls to them. ``ray_cluster`` is one on Ray."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Protocol


class NodeGone(Exception):
    """A node does not answer any more; the message says why."""


class NodeUnfit(Exception):
    """A node cannot or must not work for the run; the message says why. ``kind`` is the type of the error.

    ``nodes`` are the ids of the nodes at fault; by default all of the worker's.
    """

    def __init__(self, kind: str, message: str, nodes: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.kind = kind
        self.nodes = nodes


class ClusterLost(Exception):
    """Nothing is known of any node: the cluster's head does not answer."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """What a pool of replicas needs: ``nodes`` nodes, and ``gpus`` GPUs on each of them."""

    gpus: int
    nodes: int = 1

    @property
    def places(self) -> str:
        """What several places are called: one has as many nodes as a pool needs."""
        return "nodes" if self.nodes == 1 else f"groups of {self.nodes} nodes"

    def __str__(self) -> str:
        """Return what each node must have."""
        return f"{self.gpus} GPU{'s' if self.gpus > 1 else ''}" if self.gpus else "one processor for it"


class NodeHandle(Protocol):
    """A ``NodeWorker`` in a process of its own on a node."""

    def call(self, method: str, *given: Any, limit_s: float) -> Any:
        """Return what ``method`` of the worker returns. Raises NodeGone, also after ``limit_s`` without an answer."""

    def end(self) -> None:
        """End the worker's process, and with it all below it."""


class Placement(Protocol):
    """A request for a place on the nodes that a pool needs, which the cluster keeps until there is one."""

    def wait(self, seconds: float) -> tuple[str, ...] | None:
        """Return the ids of the nodes, or None after ``seconds`` without them. Raises NodeGone."""

    def start(self) -> NodeHandle:
        """Start a worker in the place."""

    def remove(self) -> None:
        """Give the place back, and end what runs there."""


class Cluster(Protocol):
    """A cluster as a pool of nodes sees it."""

    grows: bool
    """Whether nodes may join it."""

    def place(self, need: Need, besides: Collection[str]) -> Placement:
        """Ask for a place on any nodes but those ``besides``, which are ids of nodes."""

    def count_suited(self, need: Need, besides: Collection[str]) -> int:
        """Return for how many places there are nodes with what is needed, in use or not, but for those ``besides``."""

    def check_head(self) -> None:
        """Raise ClusterLost when the cluster has not answered for too long. Call it again and again."""
