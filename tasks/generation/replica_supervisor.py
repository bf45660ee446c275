"""Keeps one replica of a node over all its restarts: its GPUs, and counters over all its processes."""

import time
from collections.abc import Mapping
from pathlib import Path

from tasks.generation.engine import EngineSpec
from tasks.generation.generation_spec import GenerationSpec
from tasks.generation.lora_spec import LoraSpec
from tasks.generation.oom_ladder import Rung
from tasks.generation.recovery import RestartBudget
from tasks.generation.replica_messages import FromReplica, Start
from tasks.generation.replica_process import ReplicaProcess
from tasks.generation.run_counters import RunCounters
from tasks.node.engine_caches import StartKind
from tasks.node.gpu_sharing import share_gpu
from tasks.node.shared_cache import planned_cache_bytes
from tasks.plan.run_plan import RunPlan
from tasks.time_limits import time_limit


class ReplicaSupervisor:
    """Runs at most one process at a time. Counters add up over all of them."""

    def __init__(
        self,
        index: int,
        gpus: list[str] | None,
        plan: RunPlan,
        *,
        lora: LoraSpec | None = None,
        gpu_bytes: int | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """``lora`` are the engine's adapters, ``gpu_bytes`` is the memory of a GPU that engines share.

        ``variables`` are more environment of the processes.
        """
        self.index = index
        self.gpus = gpus
        self.budget = RestartBudget()
        self.process: ReplicaProcess | None = None
        self.num_tokens = 0
        self.num_rollouts = 0
        self.first_admitted_at: float | None = None
        self.last_finished_at: float | None = None
        self.retired = False
        """Whether it starts no more: others on its GPU go on without it."""
        self.start_kinds: set[StartKind] = set()
        self._plan = plan
        self._lora = lora
        self._gpu_bytes = gpu_bytes
        self._variables = dict(variables or {})
        self._planned: int | None = None
        self._not_before = 0.0
        self._start_seconds = 0.0
        self._ended_tokens = 0
        self._ended_rollouts = 0
        self._ended_runs: dict[str, RunCounters] = {}

    @property
    def start_seconds(self) -> float:
        """Seconds from the start of a process until it was ready or failed, summed over all starts so far."""
        return self._start_seconds + (self.process.start_seconds if self.process else 0.0)

    @property
    def is_starting(self) -> bool:
        return self.process is not None and not self.process.ready

    @property
    def may_start(self) -> bool:
        return self.process is None and not self.retired and time.monotonic() >= self._not_before

    def counters_of(self, run_id: str) -> RunCounters:
        """Return what was done for a run, over all processes."""
        here = self.process.runs.get(run_id) if self.process else None
        return self._ended_runs.get(run_id, RunCounters()) + (here or RunCounters())

    def shares_gpu_with(self, other: "ReplicaSupervisor") -> bool:
        """Return whether ``other`` is another replica on a GPU of this one."""
        return other is not self and not set(self.gpus or ()).isdisjoint(other.gpus or ())

    def planned_cache_bytes(self, rung: Rung) -> int | None:
        """Return the size of the KV cache that an engine at ``rung`` is told; None when it measures.

        Told are only engines that share a GPU, without adapters, and no more once memory ran out.
        """
        profile = self._plan.profile
        if profile.replicas_per_gpu == 1 or self._lora is not None or rung.index:
            return None
        if self._planned is None:
            found = planned_cache_bytes(profile, self._plan.model.path, rung.engine, gpu_bytes=self._gpu_bytes)
            self._planned = found or 0
        return self._planned or None

    def delay_start(self, seconds: float) -> None:
        """Allow no start for the next ``seconds``."""
        self._not_before = time.monotonic() + seconds

    def start(self, rung: Rung, weights: Path | None = None) -> None:
        """Start a process at ``rung`` with ``weights``, by default those of the first plan.

        Raises StorageError when its log or its process record cannot be written.
        """
        profile, paths = self._plan.profile, self._plan.paths
        settings = share_gpu(rung.engine, profile.replicas_per_gpu, self._gpu_bytes)
        self.process = ReplicaProcess(
            index=self.index,
            start=Start(
                engine=EngineSpec.of(
                    self._plan,
                    settings,
                    weights=weights,
                    lora=self._lora,
                    kv_cache_bytes=self.planned_cache_bytes(rung),
                ),
                generation=GenerationSpec.of(self._plan, rung),
            ),
            gpus=self.gpus,
            variables=self._variables,
            log_path=_new_log(paths.logs, self.index),
            pid_path=paths.state / f"replica-{self.index}.pid.json",
            stall_timeout_s=time_limit(profile.stall_timeout_s),
            start_timeout_s=time_limit(profile.start_timeout_s),
        )

    def receive(self) -> list[FromReplica]:
        """Return new messages. Raises the failure that the process reported, or the one behind its exit or silence."""
        if self.process is None:
            return []
        try:
            messages = self.process.receive()
            self.process.check_alive()
        finally:
            self._count(self.process)
        return messages

    def end(self, *, graceful: bool = False) -> None:
        """End the process, if there is one, and its descendants."""
        if self.process is not None:
            self.process.end(graceful=graceful)
            self._start_seconds += self.process.start_seconds
            self._ended_tokens, self._ended_rollouts = self.num_tokens, self.num_rollouts
            self._ended_runs = {run_id: self.counters_of(run_id) for run_id in {*self._ended_runs, *self.process.runs}}
            self.process = None

    def _count(self, process: ReplicaProcess) -> None:
        if process.start_kind is not None:
            self.start_kinds.add(process.start_kind)
        self.num_rollouts = self._ended_rollouts + process.num_finished
        self.num_tokens = self._ended_tokens + process.stats.generation_tokens
        if self.first_admitted_at is None:
            self.first_admitted_at = process.first_admitted_at
        self.last_finished_at = process.last_finished_at or self.last_finished_at


def _new_log(logs: Path, index: int) -> Path:
    attempts = [int(path.stem.rsplit("-", 1)[1]) for path in logs.glob(f"replica-{index}-*.log")]
    return logs / f"replica-{index}-{max(attempts, default=0) + 1:03d}.log"
