"""The replica process: owns one engine for a whole run, and dies with its parent.

Run as ``python -m tasks.generation.replica FD PARENT_PID``; everything else comes over the socket behind the file
descriptor. Standard output and error are the replica's log file.
"""

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from multiprocessing.connection import Connection
from typing import Literal

from tasks.errors import ConfigError, StorageError
from tasks.generation.engine import Engine, kept_for_good, load_engine_class
from tasks.generation.loop import Generator, most_in_flight
from tasks.generation.recorder import Recorder
from tasks.generation.replica_messages import (
    AddShard,
    Failed,
    FromReplica,
    Heartbeat,
    Ready,
    ShardGenerated,
    ShardStarted,
    Start,
    Stop,
    ToReplica,
)
from tasks.generation.rollout_frame import EngineFacts
from tasks.parent_death import PARENT_VARIABLE, die_with_parent
from tasks.plan.prompts import ChatTokenizer
from tasks.process_tree import descendants

HEARTBEAT_SECONDS = 0.5
HUNGRY_HEARTBEAT_SECONDS = 0.05
"""While there is little left to admit: the parent gives the next shard by what it hears."""
SWITCH_SECONDS = 0.0005
"""After which a thread that holds the interpreter gives it to one that waits. Python's own 5 ms are hundreds of a small
model's operations, and at the end of each of them the engine's thread wakes whoever waits, mostly in vain."""
ENGINE_REPORT_SECONDS = 1.0
"""What an engine that ends by an exception of its own has, to have that exception raised in a step."""
MOST_TEXT = 100_000
"""Characters of a traceback that the parent is told."""


def main() -> None:
    descriptor, parent_pid = int(sys.argv[1]), int(sys.argv[2])
    die_with_parent(parent_pid)
    os.environ[PARENT_VARIABLE] = str(os.getpid())
    # Ctrl-C reaches the whole process group; the parent decides what it means here
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection: Connection[FromReplica, ToReplica] = Connection(descriptor)
    starting = True
    try:
        order = connection.recv()
        assert isinstance(order, Start)
        replica = Replica(connection, order)
        sys.setswitchinterval(SWITCH_SECONDS)
        starting = False
        replica.run()
    except BaseException as error:
        failed = _failed(error, starting=starting)
        with contextlib.suppress(OSError):
            sys.stderr.write(failed.text)
        with contextlib.suppress(OSError):
            connection.send(failed)
        _exit(1)
    _exit(0)


def _failed(error: BaseException, *, starting: bool) -> Failed:
    text = "".join(traceback.format_exception(error))
    kind: Literal["config", "storage", "engine"] = "engine"
    if isinstance(error, ConfigError):
        kind = "config"
    elif isinstance(error, StorageError):
        kind = "storage"
    return Failed(kind=kind, message=str(error), text=text[-MOST_TEXT:], starting=starting)


class Replica:
    """One engine, its generation loop, and beside them the process that records what they finish."""

    def __init__(self, connection: "Connection[FromReplica, ToReplica]", order: Start) -> None:
        self._connection = connection
        self._spec = order.generation
        settings = order.engine.settings
        with kept_for_good():
            # before the tokenizer, which imports torch where it can: a backend may have to see to it that it cannot
            engine_class = load_engine_class(settings.backend)
            tokenizer = ChatTokenizer(order.engine.model_path, trust_remote_code=settings.trust_remote_code)
            # before the engine, whose threads and GPU a fork does not take along
            most_waiting = 4 * most_in_flight(self._spec)
            self._recorder = Recorder(tokenizer, self._spec, most_waiting=most_waiting, not_for_it=connection)
            self._engine = engine_class(order.engine)
        self._facts = EngineFacts(version=self._engine.version, dtype=self._engine.dtype)
        self._generator = Generator(self._engine, tokenizer, self._spec, self._recorder)
        self._next_heartbeat = 0.0
        connection.send(Ready(facts=self._facts, processes=tuple(descendants(os.getpid()))))
        threading.Thread(target=_end_with, args=(self._engine,), daemon=True).start()

    def run(self) -> None:
        """Serve until told to stop."""
        try:
            self._serve()
        finally:
            # when the engine fails, what finished before is kept
            self._generator.drain()

    def _serve(self) -> None:
        while True:
            idle = not self._generator.busy
            publishing = self._recorder.num_publishing > 0
            if self._connection.poll(HEARTBEAT_SECONDS if idle and not publishing else 0.01 if idle else 0):
                message = self._connection.recv()
                if isinstance(message, Stop):
                    return
                assert isinstance(message, AddShard)
                feed = self._generator.add_shard(message.work)
                self._connection.send(ShardStarted(index=message.work.index, num_resumed=feed.num_resumed))
            for work in self._generator.step():
                self._recorder.publish(work, self._facts)
            self._report()

    def _report(self) -> None:
        published = self._recorder.take_published()
        # counters before the shard's end: the parent may close the run on the last one
        if published or time.monotonic() >= self._next_heartbeat:
            hungry = self._generator.busy and self._generator.hungry
            self._next_heartbeat = time.monotonic() + (HUNGRY_HEARTBEAT_SECONDS if hungry else HEARTBEAT_SECONDS)
            self._connection.send(
                Heartbeat(
                    stats=self._engine.stats,
                    in_flight=self._generator.num_in_flight,
                    num_finished=self._generator.num_finished,
                    first_admitted_at=self._generator.first_admitted_at,
                    last_finished_at=self._generator.last_finished_at,
                )
            )
        for shard in published:
            self._connection.send(ShardGenerated(index=shard.work.index, num_errors=shard.num_errors))


def _end_with(engine: Engine) -> None:
    # vLLM waits for ever in a step when its engine core is killed; the parent must hear of it
    while (ended := engine.ended_process()) is None:
        time.sleep(0.5)
    time.sleep(ENGINE_REPORT_SECONDS)
    with contextlib.suppress(OSError):
        sys.stderr.write(f"engine process {ended}; the replica ends with it\n")
    _exit(1)


def _exit(code: int) -> None:
    # no interpreter shutdown: it can wait on engine threads, and the memory is freed by the exit either way
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
