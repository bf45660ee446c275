"""What the replicas of a pool have done in this session, over all of their processes."""

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.generation.engine import EngineLoad, EngineStats
from tasks.generation.replica_supervisor import ReplicaSupervisor
from tasks.generation.run_counters import RunCounters
from tasks.node.engine_caches import StartKind, coldest


@dataclass(frozen=True, kw_only=True)
class ReplicaStatus:
    """Counters of one running replica."""

    index: int
    ready: bool
    stats: EngineStats


class PoolCounters:
    """The counters of ``replicas``."""

    def __init__(self, replicas: Sequence[ReplicaSupervisor]) -> None:
        self._replicas = replicas

    @property
    def tokens_generated(self) -> int:
        return sum(replica.num_tokens for replica in self._replicas)

    @property
    def rollouts_finished(self) -> int:
        """How many rollouts and error rows this session generated."""
        return sum(replica.num_rollouts for replica in self._replicas)

    @property
    def engine_start_seconds(self) -> float:
        """Seconds of engine starts, summed over all replicas and starts, failed ones included."""
        return sum(replica.start_seconds for replica in self._replicas)

    @property
    def start_kind(self) -> StartKind | None:
        """How the engines started: cold if one of them did; None while none was ready."""
        return coldest(kind for replica in self._replicas for kind in replica.start_kinds)

    @property
    def first_admitted_at(self) -> float | None:
        """When an engine got the first request of this session, on the monotonic clock."""
        return min(
            (replica.first_admitted_at for replica in self._replicas if replica.first_admitted_at is not None),
            default=None,
        )

    @property
    def last_finished_at(self) -> float | None:
        """When the latest rollout finished, on the monotonic clock."""
        return max(
            (replica.last_finished_at for replica in self._replicas if replica.last_finished_at is not None),
            default=None,
        )

    def status(self) -> list[ReplicaStatus]:
        """Return the counters of the replicas that run now. Safe from any thread."""
        return [
            ReplicaStatus(index=replica.index, ready=process.ready, stats=process.stats)
            for replica in self._replicas
            if (process := replica.process) is not None
        ]

    @property
    def load(self) -> EngineLoad:
        """What the replicas do now. Safe from any thread."""
        return EngineLoad.of(replica.stats for replica in self.status())

    def counters_of(self, run_id: str) -> RunCounters:
        """Return what this session generated for one of the runs."""
        return sum((replica.counters_of(run_id) for replica in self._replicas), RunCounters())
