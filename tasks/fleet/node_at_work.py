"""One worker on a node, as the pool sees it, from its start to its end."""

from dataclasses import dataclass, field
from typing import Any, Literal

import polars as pl

from tasks.fleet.cluster import NodeGone, NodeHandle
from tasks.fleet.node_status import Key, NodeFacts, NodeStatus
from tasks.time_limits import time_limit


class NodeUnfit(Exception):
    """A node cannot or must not work for the run; the message says why. ``kind`` is the type of the error.

    ``nodes`` are the ids of the nodes at fault; by default all of the worker's.
    """

    def __init__(self, kind: str, message: str, nodes: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.kind = kind
        self.nodes = nodes


@dataclass(kw_only=True, eq=False)
class NodeAtWork:
    """A worker that takes the place of another, on the same node or not, is another one."""

    place: int
    """Number of the link that works with it."""
    nodes: tuple[str, ...]
    """Ids of the nodes that it is on."""
    silent_s: float
    """After so many seconds without an answer it counts as lost."""
    handle: NodeHandle | None = None
    name: str = ""
    begun: bool = False
    """Whether it has passed its checks."""
    status: NodeStatus = field(default_factory=NodeStatus)
    facts: NodeFacts = field(default_factory=lambda: NodeFacts(preflight=None, begun=frozenset()))
    made: list[Key] = field(default_factory=list)
    """Shards that were fetched from it."""
    rollouts_fetched: int = 0
    ended: Literal["well", "failed", "lost"] | None = None
    telemetry: pl.DataFrame | None = None
    """None when it ended without sending it."""
    logs: str = ""
    """Where the logs of its replicas are."""

    @property
    def works(self) -> bool:
        """Whether it starts or generates."""
        return self.handle is not None and self.ended is None

    @property
    def rollouts_in_progress(self) -> int:
        """Rollouts of shards that are not fetched yet."""
        return max(0, self.status.rollouts + self.status.resumed - self.rollouts_fetched) if self.works else 0

    def call(self, method: str, *given: Any) -> Any:
        """Call the worker. Raises NodeGone."""
        if self.handle is None or self.ended is not None:
            raise NodeGone("it was given up")
        return self.handle.call(method, *given, limit_s=time_limit(self.silent_s))
