"""Starts the replicas of a node: at once, one after the other, or not at all, whichever makes the work end sooner."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tasks.generation.filled_caches import FilledCaches
from tasks.generation.gpu_neighbours import GpuNeighbours
from tasks.generation.oom_ladder import Rung
from tasks.generation.replica_supervisor import ReplicaSupervisor
from tasks.generation.weight_readahead import read_weights_ahead
from tasks.node.engine_caches import SPARE_CACHES, StartKind, usable_caches
from tasks.plan.run_plan import RunPlan
from tasks.plan.shards import rollouts_to_make


class ReplicaStarts:
    """Starts the ``replicas`` of a pool. Call ``start`` again and again, from one thread."""

    def __init__(
        self, plans: Sequence[RunPlan], replicas: Sequence[ReplicaSupervisor], neighbours: GpuNeighbours
    ) -> None:
        plan = self._plan = plans[0]
        self._replicas = replicas
        self._neighbours = neighbours
        self._filled = FilledCaches(plan, usable_caches(os.environ, plan.paths.state / SPARE_CACHES).root)
        self._weights: threading.Thread | None = None
        self._ever_started = False
        self._to_make = sum(map(rollouts_to_make, plans))
        self.ever_ready = False

    def ready(self, rung: Rung, kind: StartKind) -> None:
        """Record that a replica has started in the way ``kind``."""
        self.ever_ready = True
        self._filled.add(rung.engine, kind)

    def start(self, rung: Rung, weights: Callable[[], Path | None]) -> None:
        """Start the replicas that may start now, each with ``weights()``: those of the shard that waits first.

        Raises StorageError when a log or a process record cannot be written.
        """
        if not self._ever_started:
            self._ever_started = True
            self._weights = read_weights_ahead(self._plan)
        # the first replica starts alone: it fills the compile cache that the others read, unless it is full
        is_first = not self.ever_ready and not self._filled.holds(rung.engine)
        if is_first and any(replica.is_starting for replica in self._replicas):
            return
        idle = [replica for replica in self._replicas if replica.may_start]
        for replica in idle[:1] if is_first else idle:
            if self._neighbours.may_start(replica, rung) and self._pays(replica, rung):
                replica.start(rung, weights())

    def close(self) -> None:
        """Wait for the thread that reads weights."""
        if self._weights is not None:
            self._weights.join()

    def _pays(self, replica: ReplicaSupervisor, rung: Rung) -> bool:
        """Return whether ``replica`` is ready before the engines beside it on its GPU have done the work."""
        beside = [each.process for each in self._replicas if each.shares_gpu_with(replica) and each.process]
        if not beside:
            return True
        batch = sum(process.batch_rollouts for process in beside)
        if not any(process.ready for process in beside):
            # those that start at once are ready at once
            return self._to_make > batch
        first = min((each.first_admitted_at for each in self._replicas if each.first_admitted_at), default=None)
        return start_pays(
            start_seconds=max(process.start_seconds for process in beside),
            seconds=0.0 if first is None else time.monotonic() - first,
            finished=sum(each.num_rollouts for each in self._replicas),
            to_make=self._to_make,
            batch=batch,
        )


def start_pays(*, start_seconds: float, seconds: float, finished: int, to_make: int, batch: int) -> bool:
    """Return whether the work left takes longer than the start of another engine.

    Of ``to_make`` rollouts ``finished`` were made in ``seconds``. Their rate counts once a ``batch`` is finished. An
    engine that works at its first batch for longer than it took to start has enough to do.
    """
    if finished < batch:
        return seconds > start_seconds
    return seconds * (to_make - finished) / finished > start_seconds
