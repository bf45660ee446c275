"""The parent's side of one replica process: starts it, reads its messages, notices its failure, and ends it."""

import contextlib
import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from tasks.errors import (
    ConfigError,
    EngineError,
    EngineStalled,
    EngineStartError,
    HarvestError,
    Phase,
    ReloadRefused,
    StorageError,
)
from tasks.generation.early_replicas import replica_environment, spawn, take_early
from tasks.generation.engine import EngineStats
from tasks.generation.engine_sockets import SOCKETS_VARIABLE, socket_directory
from tasks.generation.failure_classifier import classify_exit, classify_report
from tasks.generation.generation_spec import ShardKey
from tasks.generation.replica_messages import (
    Failed,
    FromReplica,
    Heartbeat,
    Ready,
    Reloaded,
    Reloading,
    ShardGenerated,
    ShardStarted,
    Start,
    ToReplica,
)
from tasks.generation.rollout_frame import EngineFacts
from tasks.generation.run_counters import RunCounters
from tasks.idleness import Silence
from tasks.node.engine_caches import SPARE_CACHES, StartKind
from tasks.node.host_memory import count_oom_kills
from tasks.plan.shards import Shard
from tasks.process_tree import ProcessRecord, kill_all, record_processes
from tasks.time_limits import time_limit

STOP_SECONDS = 5.0
"""How long a replica has to exit by itself, or after it was killed, before nobody waits any more."""
EXIT_SECONDS = 60.0
"""How long a replica that closed its connection has to exit. Its exit code tells what it died of, and a process with
much memory does not exit at once."""


class ReplicaProcess:
    """One replica process, from its start to its exit. The constructor raises StorageError if it cannot write files."""

    def __init__(
        self,
        *,
        index: int,
        start: Start,
        gpus: list[str] | None,
        variables: Mapping[str, str],
        log_path: Path,
        pid_path: Path,
        stall_timeout_s: float,
        start_timeout_s: float,
    ) -> None:
        self.index = index
        self.rung = start.generation.oom_rung
        self.log_path = log_path
        self.facts: EngineFacts | None = None
        self.start_kind: StartKind | None = None
        self.stats = EngineStats()
        self.num_finished = 0
        self.first_admitted_at: float | None = None
        self.last_finished_at: float | None = None
        self.runs: dict[str, RunCounters] = {}
        self.batch_rollouts = start.generation.batch_rollouts
        self._num_assigned = 0
        self.weights = start.engine.model_path
        """Those of the shard that was assigned last; the engine's own before."""
        self._reloading = False
        self.shards: set[ShardKey] = set()
        self.started_shards: set[ShardKey] = set()
        """The shards whose journal the replica has opened."""
        self._pid_path = pid_path
        self._stall_timeout_s = stall_timeout_s
        self._start_timeout_s = start_timeout_s
        self._oom_kills = count_oom_kills()
        self._processes: list[ProcessRecord] = []
        self._failure: HarvestError | None = None
        self._in_flight = 0
        self._spawned_at = time.monotonic()
        self._ready_at: float | None = None
        self._files = contextlib.ExitStack()
        try:
            more = {**variables, SOCKETS_VARIABLE: self._files.enter_context(socket_directory(os.environ))}
            own = replica_environment(start.engine.settings, gpus, more, pid_path.parent / SPARE_CACHES)
            log_path.parent.mkdir(parents=True, exist_ok=True)
            with log_path.open("ab") as log:
                is_vllm = start.engine.settings.backend == "vllm"
                spawned = (take_early(own, log_path) if is_vllm else None) or spawn(own, log)
        except OSError as error:
            self._files.close()
            raise StorageError(f"could not start a replica with its log at {log_path}: {error}") from error
        self._process, self.connection = spawned.process, spawned.connection
        self._silence, self._counters = Silence(), (0, 0)
        try:
            if record := ProcessRecord.of(self.pid):
                self._processes = [record]
                record_processes(self._pid_path, self._processes)
        except StorageError:
            self.end()
            raise
        self.send(start)

    @property
    def ready(self) -> bool:
        return self.facts is not None

    @property
    def _phase(self) -> Phase:
        return "run" if self.ready else "start"

    @property
    def start_seconds(self) -> float:
        """Seconds from the start of the process until it was ready, or until now."""
        return (self._ready_at or time.monotonic()) - self._spawned_at

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def pids(self) -> set[int]:
        """Ids of the replica and, once it is ready, of its engine's own processes."""
        return {self.pid, *(record.pid for record in self._processes)}

    @property
    def drained(self) -> bool:
        """Whether nothing that was assigned is left to generate."""
        return not self.shards or self.num_unfinished <= 0

    @property
    def num_unfinished(self) -> int:
        """How many assigned rollouts were not finished at the last heartbeat."""
        return self._num_assigned - self.num_finished

    def send(self, message: ToReplica) -> None:
        """Send ``message``. Does nothing when the replica has ended; ``receive`` reports that."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(message)

    def receive(self) -> list[FromReplica]:
        """Return new messages. Raises the failure that the replica reported, or the one behind its exit."""
        messages: list[FromReplica] = []
        try:
            while self._failure is None and self.connection.poll():
                message = self.connection.recv()
                if isinstance(message, Failed):
                    self._failure = self._classify_report(message)
                else:
                    self._update(message)
                    messages.append(message)
        except (EOFError, ConnectionResetError):
            self._failure = self._classify_exit()
        # messages from before the failure are delivered first
        if self._failure is not None and not messages:
            raise self._failure
        return messages

    def check_alive(self) -> None:
        """Raise EngineStalled or EngineStartError when the replica has made no progress for too long."""
        waited = self._silence.seconds()
        if not self.ready:
            if waited > self._start_timeout_s:
                raise EngineStartError(
                    f"the engine was not ready after {self._start_timeout_s:g} s",
                    log_path=self.log_path,
                    remedy="See where the log stops; raise start_timeout_s in the profile if loading takes longer",
                )
        elif self._reloading:
            if waited > self._start_timeout_s:
                raise EngineStalled(
                    f"other weights were not loaded after {self._start_timeout_s:g} s",
                    log_path=self.log_path,
                    remedy="The replica was ended; raise start_timeout_s in the profile if loading takes longer",
                )
        elif (self.shards or self._in_flight) and waited > self._stall_timeout_s:
            raise EngineStalled(
                f"no new token for {self._stall_timeout_s:g} s with {self._in_flight} requests in flight",
                log_path=self.log_path,
                remedy="The replica was ended and its unfinished rollouts are generated again; raise stall_timeout_s "
                "in the profile if steps take longer",
            )

    def assign(self, key: ShardKey, shard: Shard, weights: Path) -> None:
        """Count the shard ``key`` as this replica's. The time limit for its first token starts now."""
        self.weights = weights
        if not self.shards:
            self._silence.end()
        self.shards.add(key)
        self._num_assigned += shard.num_rollouts

    def end(self, *, graceful: bool = False) -> None:
        """End the replica and its descendants, and wait for that. With ``graceful`` it may exit by itself first."""
        if graceful:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
        kill_all(self._processes)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        self.connection.close()
        self._files.close()
        with contextlib.suppress(OSError):
            self._pid_path.unlink()

    def _update(self, message: FromReplica) -> None:
        if isinstance(message, Ready):
            self.facts, self.start_kind = message.facts, message.start_kind
            self._ready_at = time.monotonic()
            self._silence.end()
            self._processes += message.processes
            record_processes(self._pid_path, self._processes)
        elif isinstance(message, Heartbeat):
            self.stats, self.num_finished = message.stats, message.num_finished
            self._in_flight, self.runs = message.in_flight, message.runs
            self.first_admitted_at, self.last_finished_at = message.first_admitted_at, message.last_finished_at
            counters = (message.stats.generation_tokens + message.stats.prompt_tokens, message.num_finished)
            # without requests no token is due: the replica may be reading or publishing a shard
            if counters != self._counters or not message.in_flight:
                self._counters = counters
                self._silence.end()
        elif isinstance(message, Reloading | Reloaded):
            self._reloading = isinstance(message, Reloading)
            self._silence.end()
        elif isinstance(message, ShardStarted):
            self.started_shards.add(message.key)
            self._num_assigned -= message.num_resumed
        elif isinstance(message, ShardGenerated):
            self.started_shards.discard(message.key)

    def _classify_report(self, failed: Failed) -> HarvestError:
        if failed.kind == "config":
            return ConfigError(failed.message)
        if failed.kind == "storage":
            return StorageError(failed.message)
        if failed.kind == "reload":
            return ReloadRefused(failed.message, log_path=self.log_path)
        phase: Phase = "start" if failed.starting else "run"
        return classify_report(
            failed.text, self._exit_code(), self.log_path, phase, oom_kills=count_oom_kills() - self._oom_kills
        )

    def _classify_exit(self) -> EngineError:
        return classify_exit(
            self._exit_code(), self.log_path, self._phase, oom_kills=count_oom_kills() - self._oom_kills
        )

    def _exit_code(self) -> int:
        try:
            return self._process.wait(time_limit(EXIT_SECONDS))
        except subprocess.TimeoutExpired:
            return 0
