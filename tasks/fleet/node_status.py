"""What a node tells: its name, its counters, and what became of its shards; and what the pool keeps of each."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import polars as pl

from tasks.fleet.cluster import NodeGone, NodeHandle
from tasks.generation.engine import EngineLoad
from tasks.generation.recovery import PoolEvent
from tasks.generation.run_counters import RunCounters
from tasks.generation.rung_state import RungChange
from tasks.generation.shard_queue import ShardResult
from tasks.node.engine_caches import StartKind
from tasks.plan.shards import Shard
from tasks.time_limits import time_limit

NODE_NAME_VARIABLE = "HARVEST_NODE"
Key = tuple[str, int]
"""Run id and index of a shard."""
NodeState = Literal["starting", "generating", "ended", "refused", "failed"]


@dataclass(frozen=True, kw_only=True)
class NodeStatus:
    """The counters of one node since its worker began."""

    state: NodeState = "starting"
    capacity: int = 0
    """How many shards keep its engines busy now."""
    rollouts: int = 0
    """Generated ones, error rows included."""
    resumed: int = 0
    """Rollouts that journals on the node already had."""
    tokens: int = 0
    start_seconds: float = 0.0
    """Time of engine starts, summed over all replicas."""
    start_kind: StartKind | None = None
    restarts: int = 0
    load: EngineLoad = field(default_factory=EngineLoad)
    """What its engines do now."""
    replicas: int = 0
    gpus: int = 0
    machines: tuple[str, ...] = ()
    """Names of the nodes that hold the replica together, each with an equal part of the GPUs; empty for one alone."""
    runs: Mapping[str, RunCounters] = field(default_factory=dict)
    """What was generated for each run, by its id. Times are in seconds since the epoch, on the clock of the flow."""
    rung_changes: tuple[RungChange, ...] = ()
    error: dict[str, str] | None = None
    """Type and message of what ended or refused the work; set with the states ``refused`` and ``failed`` alone."""


@dataclass(frozen=True, kw_only=True)
class ShardOrder:
    """A shard to generate."""

    run_id: str
    shard: Shard
    questions: bytes
    """The Parquet file of its questions."""
    journal: bytes | None = None
    """What the collecting machine has of it, from a run without nodes."""


@dataclass(frozen=True, kw_only=True)
class MadeShard:
    """A shard whose rollouts are ready to be fetched: a Parquet file of ``size`` bytes."""

    run_id: str
    result: ShardResult
    size: int
    sha256: str


News = MadeShard | PoolEvent | str
"""Something that happened on a node, in the order of the events; a text is for the log."""


@dataclass(frozen=True, kw_only=True)
class NodeReport:
    """The state of a node, and its news since the report before."""

    status: NodeStatus
    news: tuple[News, ...]
    logs: Mapping[str, bytes]
    """What was added to the log files of its replicas, by file name."""


@dataclass(frozen=True, kw_only=True)
class NodeFacts:
    """What is known of a node once it generates."""

    preflight: dict[str, Any] | None
    begun: frozenset[Key]
    """Shards of which an earlier worker on the node left rollouts."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Where it has what engines load: the paths of models and adapters, by what they are."""


@dataclass(kw_only=True, eq=False)
class NodeAtWork:
    """One worker on a node, as the pool sees it. The one that takes its place, on the same node or not, is another."""

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


def node_name() -> str:
    """Return the node's name in logs and reports: ``HARVEST_NODE``, else the host's."""
    return os.environ.get(NODE_NAME_VARIABLE) or socket.gethostname()
