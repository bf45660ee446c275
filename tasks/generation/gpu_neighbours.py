"""Keeps replicas that share a GPU from harming each other: at a start, at a death together, and when one must go."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence

from tasks.errors import EngineError, OutOfMemory
from tasks.generation.oom_ladder import Rung
from tasks.generation.replica_supervisor import ReplicaSupervisor

TOGETHER_SECONDS = 2.0
"""How long the engines beside a dead one have to die of the same fault: a client of MPS takes others along."""
MOST_DEATHS_TOGETHER = 2
"""So often the engines of one GPU may die together. Then it goes on with one, which shows what is at fault."""


class GpuNeighbours:
    """The replicas of a node by the GPUs that they share. Where none shares one, it changes nothing."""

    def __init__(self, replicas: Sequence[ReplicaSupervisor], tell: Callable[[str], None]) -> None:
        """``tell`` gets a message when a replica retires."""
        self._replicas = replicas
        self._tell = tell
        self._deaths: Counter[str] = Counter()
        self._tokens: dict[ReplicaSupervisor, int] = {}
        """Of each replica beside a dead one, its tokens at that moment: a fault shows when it computes again."""

    def may_start(self, replica: ReplicaSupervisor, rung: Rung) -> bool:
        """Return whether ``replica`` may start at ``rung`` beside those that start on its GPU now.

        An engine that measures its memory takes for its own what changes meanwhile. So engines start together only
        where all are told the size of their caches, which is planned for one rung.
        """
        starting = [other for other in self._replicas if other.is_starting and other.shares_gpu_with(replica)]
        told = replica.planned_cache_bytes(rung) is not None
        return not starting or (told and all(other.process and other.process.rung == rung.index for other in starting))

    def alive_beside(self, failed: Collection[ReplicaSupervisor]) -> list[ReplicaSupervisor]:
        """Return the replicas that run on a GPU of a failed one and have not failed."""
        return [
            replica
            for replica in self._replicas
            if replica.process and replica not in failed and any(map(replica.shares_gpu_with, failed))
        ]

    def died_together(self, failed: Sequence[ReplicaSupervisor]) -> list[ReplicaSupervisor]:
        """Return those of ``failed`` that may have died of a fault of another on their GPU.

        These are replicas that failed at the same time, or that made no token since another failed. After too often,
        one stays on that GPU.
        """
        together = [
            replica
            for replica in failed
            if self._tokens.get(replica) == replica.num_tokens or any(map(replica.shares_gpu_with, failed))
        ]
        self._tokens = {replica: count for replica, count in self._tokens.items() if replica not in failed}
        self._tokens |= {replica: replica.num_tokens for replica in self.alive_beside(failed)}
        for gpu in dict.fromkeys(gpu for replica in together for gpu in replica.gpus or ()):
            self._deaths[gpu] += 1
            here = [replica for replica in self._replicas if gpu in (replica.gpus or ()) and not replica.retired]
            if self._deaths[gpu] >= MOST_DEATHS_TOGETHER and len(here) > 1:
                for replica in here[1:]:
                    replica.retired = True
                self._tell(
                    f"the engines on GPU {gpu} died together {self._deaths[gpu]} times. It goes on with replica "
                    f"{here[0].index} alone"
                )
        return together

    def retires(self, replica: ReplicaSupervisor, error: EngineError) -> bool:
        """Return whether ``replica`` has retired, which it does when it finds no memory beside the others to start.

        No smaller batch cures that, while the others go on.
        """
        if isinstance(error, OutOfMemory) and not error.curable and error.phase == "start":
            replica.retired = replica.retired or bool(self.alive_beside([replica]))
            if replica.retired:
                self._tell(
                    f"replica {replica.index} found no memory beside the others on its GPU, which go on: {error}"
                )
        return replica.retired
