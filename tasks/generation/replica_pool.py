"""All replicas of a node: they are started, fed, heard, and replaced when they fail.

Task threads call ``generate`` and wait; the flow's main thread calls ``pump``, which does all the work. Replicas are
started there and nowhere else, because a replica dies with the thread that started it.
"""

import contextlib
import math
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import wait
from types import TracebackType
from typing import Any

from tasks.errors import EngineCrashed, EngineStalled, HarvestError
from tasks.generation.engine import EngineStats
from tasks.generation.journal import JournalWriter, read_journal
from tasks.generation.oom_ladder import Rung, RungChange, RungState
from tasks.generation.recovery import PoolEvent, Recovery
from tasks.generation.replica_messages import AddShard, FromReplica, Ready, ShardGenerated, ShardStarted, Stop
from tasks.generation.replica_slot import ReplicaSlot
from tasks.generation.shard_feed import ShardWork
from tasks.generation.shard_queue import ShardQueue, ShardResult
from tasks.node.gpu_memory_release import wait_for_free_memory
from tasks.node.gpu_selection import gpus_per_replica
from tasks.plan.run_plan import RunPlan
from tasks.plan.shards import Shard, mark_finished

MOST_SHARD_TASKS = 48
"""Task runs in flight at most, below the number of the flow's threads."""


@dataclass(frozen=True, kw_only=True)
class ReplicaStatus:
    """Counters of one running replica."""

    index: int
    ready: bool
    stats: EngineStats


class ReplicaPool:
    """Use as a context manager; leaving it ends every replica."""

    def __init__(
        self, plan: RunPlan, *, rung: RungState, listener: Callable[[PoolEvent], None] = lambda event: None
    ) -> None:
        self._plan = plan
        self._listener = listener
        self._recovery = Recovery(plan, rung, listener)
        gpus = gpus_per_replica(plan, os.environ.get("CUDA_VISIBLE_DEVICES"))
        self._slots = [ReplicaSlot(index, own, plan) for index, own in enumerate(gpus)]
        self._queue = ShardQueue(self.wake)
        self._ever_ready = False
        self._broken = False
        # sockets, not a pipe: task threads may wake a pool that is closed, and its numbers are other files' by then
        self._wake_out, self._wake_in = socket.socketpair()
        self._wake_in.setblocking(False)

    @property
    def capacity(self) -> int:
        """Shard tasks worth having in flight now: what the replicas have, and a question batch more for each."""
        assigned = sum(len(slot.process.shards) for slot in self._slots if slot.process)
        ahead = math.ceil(self._plan.profile.question_batch_size / self._plan.shard_size)
        return min(MOST_SHARD_TASKS, assigned + ahead * len(self._slots))

    @property
    def rung(self) -> Rung:
        return self._recovery.rung

    @property
    def rung_changes(self) -> list[RungChange]:
        return self._recovery.changes

    @property
    def tokens_generated(self) -> int:
        return sum(slot.num_tokens for slot in self._slots)

    @property
    def rollouts_finished(self) -> int:
        """Rollouts and error rows made in this session."""
        return sum(slot.num_rollouts for slot in self._slots)

    @property
    def rollouts_resumed(self) -> int:
        """Rollouts that an earlier session had left in the journals."""
        return self._queue.num_resumed

    @property
    def restarts(self) -> int:
        """Engines lost to failures."""
        return self._recovery.num_failures

    @property
    def engine_start_seconds(self) -> float:
        """Seconds of engine starts, over all replicas and attempts, the failed ones included."""
        return sum(slot.start_seconds for slot in self._slots)

    @property
    def first_admitted_at(self) -> float | None:
        """When the first request of this session was given to an engine, on the monotonic clock."""
        return min((slot.first_admitted_at for slot in self._slots if slot.first_admitted_at is not None), default=None)

    @property
    def last_finish_at(self) -> float | None:
        """When the last rollout so far was finished, on the monotonic clock."""
        return max((slot.last_finished_at for slot in self._slots if slot.last_finished_at is not None), default=None)

    def status(self) -> list[ReplicaStatus]:
        """Counters of the replicas that run now; safe from any thread."""
        return [
            ReplicaStatus(index=slot.index, ready=process.ready, stats=process.stats)
            for slot in self._slots
            if (process := slot.process) is not None
        ]

    def generate(self, shard: Shard) -> ShardResult:
        """Generate ``shard`` and wait for it; called from task threads, served by ``pump`` on the main thread.

        Raises an EngineError (retryable: call again), StorageError or ConfigError.
        """
        return self._queue.wait_for(shard)

    def wake(self) -> None:
        """Make a ``pump`` that waits look around again; safe from any thread, also after ``close``."""
        with contextlib.suppress(OSError):
            self._wake_in.send(b"x")

    def pump(self, timeout: float) -> None:
        """Start, feed, hear and judge the replicas; returns after ``timeout`` seconds or as soon as something came.

        Raises StorageError when the state of the run cannot be written.
        """
        self._start()
        self._assign()
        connections = [slot.process.connection for slot in self._slots if slot.process]
        if self._wake_out in wait([*connections, self._wake_out], timeout):
            self._wake_out.recv(4096)
        for slot in self._slots:
            try:
                for message in slot.receive():
                    self._handle(slot, message)
            except HarvestError as error:
                self._fail(slot, error)

    def close(self) -> None:
        """End every replica and fail whoever still waits."""
        closed = EngineCrashed("the replica pool was closed")
        closed.retryable = False
        self._queue.close(closed)
        for slot in self._slots:
            if slot.process is not None:
                slot.process.send(Stop())
        for slot in self._slots:
            slot.end(graceful=slot.process is not None and slot.process.ready and not slot.process.shards)
        self._wake_in.close()
        self._wake_out.close()

    def __enter__(self) -> "ReplicaPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> None:
        if self._broken or not self._queue.busy:
            return
        # the first replica fills the compile cache that the others then read, all at once
        starting = any(slot.process is not None and not slot.process.ready for slot in self._slots)
        alone = not self._ever_ready
        if alone and starting:
            return
        idle = [slot for slot in self._slots if slot.may_start]
        for slot in idle[:1] if alone else idle:
            slot.start(self.rung)

    def _assign(self) -> None:
        while True:
            processes = [slot.process for slot in self._slots if slot.process and slot.process.ready]
            # counted in rollouts, not shards: one that waits for its longest completions fills no batch
            free = [process for process in processes if process.num_unfinished < 2 * process.batch_rollouts]
            shard = self._queue.take() if free else None
            if shard is None:
                return
            process = min(free, key=lambda candidate: candidate.num_unfinished)
            process.assign(shard)
            process.send(AddShard(work=self._work(shard.index)))

    def _work(self, index: int) -> ShardWork:
        paths = self._plan.paths
        return ShardWork(
            index=index, questions=paths.questions(index), journal=paths.journal(index), rollouts=paths.rollouts(index)
        )

    def _handle(self, slot: ReplicaSlot, message: FromReplica) -> None:
        process = slot.process
        assert process is not None
        match message:
            case Ready():
                self._ever_ready = True
                self._tell("started", f"replica {slot.index} was ready after {process.start_seconds:.1f} s")
            case ShardStarted(index=index, num_resumed=num_resumed):
                if self._queue.started(index, num_resumed):
                    self._tell("resumed", f"shard {index}: {num_resumed} rollouts were already in its journal")
            case ShardGenerated(index=index, num_errors=num_errors):
                self._publish(index)
                process.shards.discard(index)
                if self._queue.finished(index, num_errors).num_completed:
                    slot.budget.progressed()

    def _publish(self, index: int) -> None:
        paths = self._plan.paths
        mark_finished(paths, "rollouts", index, paths.rollouts(index))
        with contextlib.suppress(FileNotFoundError):
            paths.journal(index).unlink()

    def _fail(self, slot: ReplicaSlot, error: HarvestError) -> None:
        process = slot.process
        assert process is not None
        lost, started = sorted(process.shards), process.started_shards
        rung, pids = process.rung, process.pids
        slot.end()
        has_suspects = False
        if isinstance(error, EngineStalled | EngineCrashed):
            for index in started:
                has_suspects |= self._record_crash(index, slot)
        error, delay = self._recovery.after(
            error,
            replica=slot.index,
            rung=rung,
            budget=slot.budget,
            started_before=self._ever_ready,
            has_suspects=has_suspects,
        )
        if error.retryable:
            wait_for_free_memory(slot.gpus, pids)
            slot.wait(delay)
            self._queue.failed(lost, error)
        else:
            self._broken = True
            self._queue.close(error)

    def _record_crash(self, index: int, slot: ReplicaSlot) -> bool:
        """Note in a shard's journal that its engine died; True when it had requests of the shard."""
        path = self._plan.paths.journal(index)
        # what the replica last said of itself can be half a second old; its journal is not
        state = read_journal(path, keep_rollouts=False)
        if state.num_made:
            slot.budget.progressed()
        with JournalWriter(path) as journal:
            journal.append({"kind": "crash"})
        return bool(state.in_flight)

    def _tell(self, kind: str, message: str, **details: Any) -> None:
        self._listener(PoolEvent(kind=kind, message=message, details=details))
