"""Runs all replicas of a node, for one run or several that share them.

It starts them, gives them shards, reads their messages, and replaces those that fail.

Task threads call ``generate`` and wait. The flow's main thread calls ``pump``, which does all the work: a replica dies
with the thread that started it, so only that thread starts replicas.
"""

import contextlib
import math
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from multiprocessing.connection import wait
from types import TracebackType
from typing import Any

from tasks.errors import EngineCrashed, EngineError, EngineStalled, HarvestError, PoolClosed, ReloadRefused
from tasks.generation.early_replicas import end_early
from tasks.generation.generation_spec import ShardKey
from tasks.generation.gpu_neighbours import TOGETHER_SECONDS, GpuNeighbours
from tasks.generation.journal import record_crash
from tasks.generation.lora_spec import LoraSpec
from tasks.generation.oom_ladder import Rung
from tasks.generation.policy import policies_of
from tasks.generation.pool_counters import PoolCounters
from tasks.generation.recovery import PoolEvent, Recovery
from tasks.generation.replica_messages import FromReplica, Ready, Reloaded, ShardGenerated, ShardStarted, Stop
from tasks.generation.replica_starts import ReplicaStarts
from tasks.generation.replica_supervisor import ReplicaSupervisor
from tasks.generation.rung_state import RungChange, RungState
from tasks.generation.shard_assignment import ShardAssignment
from tasks.generation.shard_queue import ShardQueue, ShardResult
from tasks.node.engine_caches import START_WORDS
from tasks.node.gpu_memory_release import wait_for_free_memory
from tasks.node.gpu_selection import gpus_per_replica, read_gpu_bytes
from tasks.node.nvml import PynvmlReader
from tasks.node.run_batch import choose_run_batch
from tasks.plan.run_plan import RunPlan
from tasks.plan.shards import Shard, record_rollouts
from tasks.records import shard_label
from tasks.time_limits import time_limit

MAX_SHARD_TASKS = 48
"""Largest number of task runs in flight. It is below the number of the flow's threads."""


_Failures = list[tuple[ReplicaSupervisor, HarvestError]]


class ReplicaPool(PoolCounters):
    """The replicas of a node. Use it as a context manager: its exit ends every replica."""

    def __init__(
        self,
        plans: Sequence[RunPlan],
        *,
        rung: RungState,
        listener: Callable[[PoolEvent], None] = lambda event: None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """``plans`` differ in their policies only. The first gives the profile, and the place of logs and of the rung.

        ``variables`` are more environment for the replicas.
        """
        plan = self._plan = plans[0]
        self._plans = {each.run_id: each for each in plans}
        policies = policies_of(plans)
        lora = LoraSpec.of(policies, plan.lora)
        self._listener = listener
        self.auto = choose_run_batch(plan)
        """The chosen question batch; None when the profile states it."""
        self._recovery = Recovery(plan, rung, listener, self.auto)
        gpus = gpus_per_replica(plan, os.environ.get("CUDA_VISIBLE_DEVICES"))
        gpu_bytes = read_gpu_bytes(plan.profile, PynvmlReader()) if plan.profile.replicas_per_gpu > 1 else None
        super().__init__(
            [
                ReplicaSupervisor(index, own, plan, lora=lora, gpu_bytes=gpu_bytes, variables=variables)
                for index, own in enumerate(gpus)
            ]
        )
        self._neighbours = GpuNeighbours(self._replicas, lambda message: self._tell("retired", message))
        self._queue = ShardQueue(self.wake)
        self._assignment = ShardAssignment(
            plans, policies, self._replicas, self._queue, has_chosen_batch=self.auto is not None
        )
        self._starts = ReplicaStarts(plans, self._replicas, self._neighbours)
        self._broken = False
        # sockets, not a pipe: a task thread may wake a closed pool, when its descriptors may belong to other files
        self._wake_out, self._wake_in = socket.socketpair()
        self._wake_in.setblocking(False)

    @property
    def capacity(self) -> int:
        """How many shard tasks to have in flight now: the replicas' shards, and one question batch more per replica."""
        assigned = sum(len(replica.process.shards) for replica in self._replicas if replica.process)
        ahead = math.ceil(self._recovery.full_batch / self._plan.shard_size)
        return min(MAX_SHARD_TASKS, assigned + ahead * len(self._replicas))

    @property
    def rung(self) -> Rung:
        return self._recovery.rung

    @property
    def rung_changes(self) -> list[RungChange]:
        return self._recovery.changes

    @property
    def rollouts_resumed(self) -> int:
        """How many rollouts earlier sessions left in the journals."""
        return self._queue.num_resumed

    @property
    def restarts(self) -> int:
        """How many engine failures made a replica start again."""
        return self._recovery.num_failures

    def generate(self, plan: RunPlan, shard: Shard) -> ShardResult:
        """Generate ``shard`` of one of the pool's plans, and wait for it.

        Task threads call this; ``pump`` on the main thread does the work. Raises an
        EngineError (retryable: call again), StorageError or ConfigError.
        """
        return self.submit(plan, shard).result()

    def submit(self, plan: RunPlan, shard: Shard) -> Future[ShardResult]:
        """Queue ``shard``, and return its future. Its callbacks must not wait: they run while ``pump`` works."""
        return self._queue.submit(ShardKey(plan.run_id, shard.index), shard)

    def wake(self) -> None:
        """Make ``pump`` return now. Safe from any thread, also after ``close``."""
        with contextlib.suppress(OSError):
            self._wake_in.send(b"x")

    def pump(self, timeout: float) -> None:
        """Start replicas, assign shards, and handle messages and failures. Returns at a message or after ``timeout`` s.

        Raises StorageError when the state of the run cannot be written.
        """
        if self._queue.busy and not self._broken:
            self._starts.start(self.rung, lambda: self._assignment.next_weights(ever_ready=self._starts.ever_ready))
        self._assignment.assign()
        connections = [replica.process.connection for replica in self._replicas if replica.process]
        if self._wake_out in wait([*connections, self._wake_out], timeout):
            self._wake_out.recv(4096)
        failures = self._receive(self._replicas)
        if _crashed(failures):
            self._add_neighbours(failures)
        together = self._neighbours.died_together(_crashed(failures))
        for replica, error in failures:
            self._fail(replica, error, together=replica in together)

    def close(self) -> None:
        """End every replica, and raise a PoolClosed in every thread that still waits."""
        self._queue.close(PoolClosed("the replica pool was closed"))
        for replica in self._replicas:
            if replica.process is not None:
                replica.process.send(Stop())
        for replica in self._replicas:
            replica.end(graceful=replica.process is not None and replica.process.ready and not replica.process.shards)
        end_early()
        self._wake_in.close()
        self._wake_out.close()
        self._starts.close()

    def __enter__(self) -> "ReplicaPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _receive(self, replicas: Sequence[ReplicaSupervisor]) -> _Failures:
        """Handle the new messages of ``replicas``. Return those that have failed."""
        failures: _Failures = []
        for replica in replicas:
            try:
                for message in replica.receive():
                    self._handle(replica, message)
            except HarvestError as error:
                failures.append((replica, error))
        return failures

    def _add_neighbours(self, failures: _Failures) -> None:
        """Wait a moment for the engines that share a GPU with a failed one, and add those that fail too."""
        deadline = time.monotonic() + time_limit(TOGETHER_SECONDS)
        while (left := deadline - time.monotonic()) > 0:
            near = self._neighbours.alive_beside([replica for replica, _ in failures])
            if not near:
                return
            wait([replica.process.connection for replica in near if replica.process], left)
            failures += self._receive(near)

    def _handle(self, replica: ReplicaSupervisor, message: FromReplica) -> None:
        process = replica.process
        assert process is not None
        match message:
            case Ready():
                self._starts.ready(self.rung, message.start_kind)
                how = START_WORDS[message.start_kind]
                self._tell("started", f"replica {replica.index} was ready after {process.start_seconds:.1f} s ({how})")
            case Reloaded():
                took = f"after {message.seconds:.1f} s"
                self._tell("reloaded", f"replica {replica.index} has the weights of {message.weights.name} {took}")
            case ShardStarted(key=key, num_resumed=num_resumed):
                if self._queue.started(key, num_resumed) and num_resumed:
                    self._tell(
                        "resumed", f"shard {self._name(key)}: {num_resumed} rollouts were already in its journal"
                    )
            case ShardGenerated(key=key, num_errors=num_errors):
                paths = self._plans[key.run_id].paths
                record_rollouts(paths, key.shard)
                paths.journal(key.shard).unlink(missing_ok=True)
                process.shards.discard(key)
                if self._queue.finished(key, num_errors).num_completed:
                    replica.budget.progressed()

    def _fail(self, replica: ReplicaSupervisor, error: HarvestError, *, together: bool = False) -> None:
        process = replica.process
        assert process is not None
        lost, started = sorted(process.shards), process.started_shards
        rung, pids = process.rung, process.pids
        replica.end()
        has_suspects = False
        if isinstance(error, EngineStalled | EngineCrashed):
            for run_id, index in started:
                # the journal is up to date, while the last heartbeat can be half a second old
                state = record_crash(self._plans[run_id].paths.journal(index), run_id, together=together)
                if state.num_completed:
                    replica.budget.progressed()
                has_suspects |= bool(state.in_flight)
        delay = 0.0
        if isinstance(error, ReloadRefused):
            message = f"replica {replica.index} starts a new engine for the next weights: {error.reason}"
            self._tell("renewed", message)
        elif isinstance(error, EngineError) and self._neighbours.retires(replica, error):
            error.retryable = True
        else:
            error, delay = self._recovery.decide(
                error,
                replica=replica.index,
                rung=rung,
                budget=replica.budget,
                started_before=self._starts.ever_ready,
                has_suspects=has_suspects,
            )
        if error.retryable:
            wait_for_free_memory(replica.gpus, pids)
            replica.delay_start(delay)
            self._queue.failed(lost, error)
        else:
            self._broken = True
            self._queue.close(error)

    def _name(self, key: ShardKey) -> str:
        name = shard_label(key.shard)
        return name if len(self._plans) == 1 else f"{name} of {key.run_id}"

    def _tell(self, kind: str, message: str, **details: Any) -> None:
        self._listener(PoolEvent(kind=kind, message=message, details=details))


def _crashed(failures: _Failures) -> list[ReplicaSupervisor]:
    return [replica for replica, error in failures if isinstance(error, EngineStalled | EngineCrashed)]
