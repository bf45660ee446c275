"""Runs one engine and its generation loop, in a process that dies with its parent.

The parent starts it as ``python -m tasks.generation.replica FD PARENT_PID`` and sends everything else over the socket
with file descriptor FD. Standard output and error are the replica's log file. With a third argument, "early", it
imports vLLM before its first message, which then names the log file.
"""

import contextlib
import os
import signal
import sys
import time
import traceback
from collections import deque
from multiprocessing.connection import Connection

from tasks.errors import ConfigError, ReloadRefused, StorageError
from tasks.gc_freeze import gc_frozen
from tasks.generation.engine import ReloadingEngine, load_engine_class
from tasks.generation.engine_watch import EngineWatch, exit_now
from tasks.generation.generation_spec import ShardWork
from tasks.generation.loop import GenerationLoop, max_in_flight
from tasks.generation.policy import Policy
from tasks.generation.recorder import Recorder
from tasks.generation.replica_messages import (
    AddShard,
    Adopt,
    Failed,
    FailureKind,
    FromReplica,
    Heartbeat,
    Ready,
    Reloaded,
    Reloading,
    ShardGenerated,
    ShardStarted,
    Start,
    Stop,
    ToReplica,
)
from tasks.generation.rollout_frame import EngineFacts
from tasks.generation.vllm_engine import import_vllm
from tasks.node.engine_caches import StartWatch
from tasks.parent_death import PARENT_VARIABLE, ForkGuard, die_with_parent
from tasks.plan.prompts import ChatTokenizer
from tasks.process_tree import descendants, kill_all
from tasks.user_code import in_words, text_of

HEARTBEAT_SECONDS = 0.5
LOW_WORK_HEARTBEAT_SECONDS = 0.05
"""Used while little is left to admit, because the parent assigns the next shard when it hears from the replica."""
SWITCH_SECONDS = 0.0005
"""How long a thread keeps the interpreter lock while others wait. Within Python's default of 5 ms a small model runs
hundreds of operations; after each one the engine's thread wakes the waiting threads, mostly in vain."""
MAX_TRACEBACK_CHARS = 100_000
"""Length of a traceback that is sent to the parent; its end is kept."""


def main() -> None:
    descriptor, parent_pid = int(sys.argv[1]), int(sys.argv[2])
    with contextlib.suppress(ImportError):
        # finds the place of the title, by which vLLM names a forked engine core, while the environment is as it was
        import setproctitle  # noqa: F401
    die_with_parent(parent_pid)
    os.environ[PARENT_VARIABLE] = str(os.getpid())
    # Ctrl-C reaches the whole process group; only the parent acts on it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection: Connection[FromReplica, ToReplica] = Connection(descriptor)
    starting = True
    try:
        if "early" in sys.argv[3:]:
            _import_ahead(connection)
        start = connection.recv()
        assert isinstance(start, Start)
        replica = Replica(connection, start)
        sys.setswitchinterval(SWITCH_SECONDS)
        starting = False
        replica.run()
    except BaseException as error:
        failed = _failed(error, starting=starting)
        with contextlib.suppress(OSError):
            sys.stderr.write(failed.text)
        with contextlib.suppress(OSError):
            connection.send(failed)
        # the parent does not know of an engine core that is not ready, whose memory the next engine needs
        kill_all(descendants(os.getpid()))
        exit_now(1)
    exit_now(0)


def _import_ahead(connection: "Connection[FromReplica, ToReplica]") -> None:
    """Import vLLM, and wait for what only the run that needs this process knows."""
    with gc_frozen():
        import_vllm()
    adopt = connection.recv()
    assert isinstance(adopt, Adopt)
    os.environ.clear()
    os.environ |= {**adopt.environment, PARENT_VARIABLE: str(os.getpid())}
    sys.stdout.flush()
    sys.stderr.flush()
    with adopt.log_path.open("ab", buffering=0) as log:
        log.write(os.pread(sys.stdout.fileno(), os.fstat(sys.stdout.fileno()).st_size, 0))
        for stream in (sys.stdout, sys.stderr):
            os.dup2(log.fileno(), stream.fileno())


def _failed(error: BaseException, *, starting: bool) -> Failed:
    text = "".join(traceback.format_exception(error))
    kind: FailureKind = "engine"
    if isinstance(error, ConfigError):
        kind = "config"
    elif isinstance(error, StorageError):
        kind = "storage"
    elif isinstance(error, ReloadRefused):
        kind = "reload"
    # the text of a SystemExit is its code alone
    message = text_of(error) if isinstance(error, Exception) else in_words(error)
    return Failed(kind=kind, message=message, text=text[-MAX_TRACEBACK_CHARS:], starting=starting)


class Replica:
    """Holds one engine, its generation loop, and the process that records finished rollouts."""

    def __init__(self, connection: "Connection[FromReplica, ToReplica]", start: Start) -> None:
        self._connection = connection
        self._spec = start.generation
        self._weights = start.engine.model_path
        self._next: deque[ShardWork] = deque()
        """Shards of other weights, which wait until those before them are done."""
        self._checked: set[str] = set()
        """Runs whose files were those of their plans when this engine had read them."""
        settings = start.engine.settings
        with gc_frozen():
            # before the tokenizer: importing the tokenizer may import torch, and a fake backend prevents that
            engine_class = load_engine_class(settings.backend)
            tokenizer = ChatTokenizer(start.engine.model_path, trust_remote_code=settings.trust_remote_code)
            # forked before the engine exists: a fork does not copy threads and cannot use the GPU
            max_unrecorded = 4 * max_in_flight(self._spec)
            self._recorder = Recorder(tokenizer, self._spec, max_unrecorded=max_unrecorded, close_in_child=connection)
            # what is forked from here on is the engine's
            self._guard = ForkGuard([connection, self._recorder.connection])
            self._watch = EngineWatch()
            caches = StartWatch(settings, os.environ)
            with self._watch.telling():
                self._engine = engine_class(start.engine)
        self._facts = EngineFacts(version=self._engine.version, dtype=self._engine.dtype)
        self._loop = GenerationLoop(self._engine, tokenizer, self._spec, self._recorder)
        self._next_heartbeat = 0.0
        connection.send(Ready(facts=self._facts, processes=tuple(descendants(os.getpid())), start_kind=caches.kind()))

    def run(self) -> None:
        """Generate shards until the parent says stop."""
        try:
            with self._watch.telling():
                self._serve()
        finally:
            # finished rollouts stay in the journal when the engine fails
            self._loop.drain()

    def _serve(self) -> None:
        while True:
            self._begin_next()
            idle = not self._loop.busy
            publishing = self._recorder.num_publishing > 0
            if self._connection.poll(HEARTBEAT_SECONDS if idle and not publishing else 0.01 if idle else 0):
                message = self._connection.recv()
                if isinstance(message, Stop):
                    return
                assert isinstance(message, AddShard)
                self._next.append(message.work)
                continue
            for work in self._loop.step():
                self._recorder.publish(work, self._facts)
            self._report()

    def _begin_next(self) -> None:
        """Begin the shards that are next: with other weights once those before are done, and never with wrong ones."""
        while self._next:
            work = self._next[0]
            if work.policy.weights != self._weights:
                if self._loop.busy:
                    return
                self._load(work.policy)
            if work.policy.run_id not in self._checked:
                # after the engine has read them
                work.policy.check_files()
                self._checked.add(work.policy.run_id)
            feed = self._loop.add_shard(self._next.popleft())
            self._connection.send(ShardStarted(key=work.key, num_resumed=feed.num_resumed))

    def _load(self, policy: Policy) -> None:
        """Load the weights of ``policy``. Raises ReloadRefused."""
        began = time.monotonic()
        self._connection.send(Reloading(weights=policy.weights))
        try:
            if not isinstance(self._engine, ReloadingEngine):
                raise ReloadRefused("this engine loads no other weights")
            self._engine.load_weights(policy.weights)
        except ReloadRefused:
            # else the next engine would have to load these weights again, only to publish finished shards
            self._recorder.drain()
            self._report()
            raise
        self._weights = policy.weights
        self._connection.send(Reloaded(weights=policy.weights, seconds=time.monotonic() - began))

    def _report(self) -> None:
        published = self._recorder.take_published()
        # the counters go first, because the parent may close the run at the end of the last shard
        if published or time.monotonic() >= self._next_heartbeat:
            low_work = self._loop.busy and self._loop.needs_shards
            self._next_heartbeat = time.monotonic() + (LOW_WORK_HEARTBEAT_SECONDS if low_work else HEARTBEAT_SECONDS)
            self._connection.send(
                Heartbeat(
                    stats=self._engine.stats,
                    in_flight=self._loop.num_in_flight,
                    num_finished=self._loop.num_finished,
                    first_admitted_at=self._loop.first_admitted_at,
                    last_finished_at=self._loop.last_finished_at,
                    runs=self._loop.runs,
                )
            )
        for shard in published:
            self._connection.send(ShardGenerated(key=shard.work.key, num_errors=shard.num_errors))


if __name__ == "__main__":
    main()
