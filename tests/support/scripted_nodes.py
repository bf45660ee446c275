"""A cluster in this process whose nodes do what a test says. Their workers make rows without an engine."""

import hashlib
import io
import queue
import threading
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from tasks.fleet.cluster import ClusterLost, Need, NodeGone, NodeHandle
from tasks.fleet.node_order import NodeOrder, software
from tasks.fleet.node_span import NodeSpan
from tasks.fleet.node_status import MadeShard, NodeFacts, NodeReport, NodeStatus, ShardOrder
from tasks.generation.engine import EngineLoad
from tasks.generation.shard_queue import ShardResult
from tasks.records import ROLLOUT_SCHEMA


class ScriptedWorker:
    """Answers as ``NodeWorker`` does, at once. ``hold`` keeps what it is given; ``silent`` makes calls fail."""

    def __init__(self, name: str, script: "Script") -> None:
        self.name = name
        self.script = script
        self.silent = False
        self.given: list[ShardOrder] = []
        self._files: dict[tuple[str, int], bytes] = {}
        self._news: deque[MadeShard] = deque()
        self._rollouts = 0
        self.state: Any = "starting"
        self.begun = False
        self.called: list[str] = []
        """The methods that were called, in order."""

    def identity(self) -> dict[str, Any]:
        return {"node": self.name, "software": {**software(), **self.script.software}}

    def begin(self, order: NodeOrder, now: float) -> None:
        self.order = order
        self._arms = [arm.id for arm in order.plans[0].arms.arms]
        self.state = self.script.state
        self.begun = True

    def give(self, order: ShardOrder) -> None:
        self.given.append(order)
        if not self.script.hold:
            self.make(order)

    def make(self, order: ShardOrder) -> None:
        """Generate a shard that was given."""
        questions = pl.read_parquet(io.BytesIO(order.questions))
        keys = [
            {"run_id": order.run_id, "example_id": example, "arm_id": arm, "sample_index": 0, "model": self.name}
            for example in questions["example_id"]
            for arm in self._arms
        ]
        written = io.BytesIO()
        pl.DataFrame(keys, schema=ROLLOUT_SCHEMA).write_parquet(written)
        data = written.getvalue()
        sha256 = hashlib.sha256(data).hexdigest()
        self._files[order.run_id, order.shard.index] = data[:-1] + b"?" if self.script.damages.pop(0) else data
        self._rollouts += len(keys)
        result = ShardResult(index=order.shard.index, num_rollouts=len(keys), num_errors=0, num_resumed=0)
        self._news.append(MadeShard(run_id=order.run_id, result=result, size=len(data), sha256=sha256))

    def report(self, wait_s: float) -> NodeReport:
        error = {"type": self.script.error, "message": "the GPU has fallen off the bus"} if self.script.error else None
        status = NodeStatus(
            state=self.state,
            capacity=self.script.capacity,
            rollouts=self._rollouts,
            load=self.script.load,
            error=error,
        )
        news = [self._news.popleft() for _ in range(len(self._news))]
        return NodeReport(status=status, news=tuple(news), logs={})

    def facts(self) -> NodeFacts:
        begun = frozenset((self.order.plans[0].run_id, index) for index in self.script.begun)
        preflight = {"worst": "pass", "checks": [], "plan": None}
        return NodeFacts(preflight=preflight, begun=begun, files=self.script.files)

    def read(self, run_id: str, index: int, offset: int, size: int) -> bytes:
        return self._files[run_id, index][offset : offset + size]

    def drop(self, run_id: str, index: int) -> None:
        del self._files[run_id, index]

    def end(self) -> pl.DataFrame | None:
        self.state = "ended"
        return None


@dataclass(kw_only=True)
class Script:
    """What a node is like."""

    capacity: int = 2
    state: str = "generating"
    load: EngineLoad = field(default_factory=EngineLoad)
    error: str | None = None
    software: dict[str, str] = field(default_factory=dict)
    begun: tuple[int, ...] = ()
    """Shards of which it has rollouts from before."""
    files: dict[str, str] = field(default_factory=dict)
    """Where a node of a group has what engines load."""
    hold: bool = False
    gone: bool = False
    """Whether every call fails, as with a machine that is off."""
    damages: "Damages" = field(default_factory=lambda: Damages())


class Damages:
    """Which of the next files come damaged: none, or the first ``count``."""

    def __init__(self, count: int = 0) -> None:
        self._left = count

    def pop(self, _: int) -> bool:
        self._left -= 1
        return self._left >= 0


class ScriptedCluster:
    """Nodes by name, each with its script. ``join`` adds one. Every node has place for any number of workers."""

    def __init__(self, **nodes: Script) -> None:
        self.nodes = nodes
        self.workers: queue.Queue[ScriptedWorker] = queue.Queue()
        """The workers in the order of their starts."""
        self.head_is_lost = False
        self.grows = True
        self._changed = threading.Condition()

    def join(self, name: str, script: Script) -> None:
        with self._changed:
            self.nodes[name] = script
            self._changed.notify_all()

    def place(self, need: Need, besides: Collection[str]) -> "_Place":
        return _Place(self, need, besides)

    def count_suited(self, need: Need, besides: Collection[str]) -> int:
        return len(self.nodes.keys() - set(besides)) // need.nodes

    def check_head(self) -> None:
        if self.head_is_lost:
            raise ClusterLost("the head is gone")

    def wait_for(self, need: Need, besides: Collection[str], seconds: float) -> tuple[str, ...] | None:
        def found() -> tuple[str, ...] | None:
            names = tuple(name for name in self.nodes if name not in besides)[: need.nodes]
            return names if len(names) == need.nodes else None

        with self._changed:
            return self._changed.wait_for(found, seconds)


class _Place:
    def __init__(self, cluster: ScriptedCluster, need: Need, besides: Collection[str]) -> None:
        self._cluster, self._need, self._besides = cluster, need, besides

    def wait(self, seconds: float) -> tuple[str, ...] | None:
        self._nodes = self._cluster.wait_for(self._need, self._besides, seconds)
        return self._nodes

    def start(self) -> NodeHandle:
        assert self._nodes is not None
        workers = [ScriptedWorker(name, self._cluster.nodes[name]) for name in self._nodes]
        for worker in workers:
            self._cluster.workers.put(worker)
        handles = [_Handle(worker) for worker in workers]
        return handles[0] if len(handles) == 1 else NodeSpan(handles, self._nodes)

    def remove(self) -> None:
        pass


class _Handle:
    def __init__(self, worker: ScriptedWorker) -> None:
        self._worker = worker

    def call(self, method: str, *given: Any, limit_s: float) -> Any:
        if self._worker.silent or self._worker.script.gone:
            raise NodeGone("it does not answer")
        self._worker.called.append(method)
        called: Callable[..., Any] = getattr(self._worker, method)
        return called(*given)

    def end(self) -> None:
        pass
