"""Runs Math-Verify in subprocesses, with a hard time limit for each answer.

An answer is compared with its ground truth. A wrong one is then read once more, for the text that answers equal to it
have too.

Math-Verify's own limit is an alarm signal: it works only in a main thread, and it clears other alarms. Some answers
(``\\boxed{9^{9^{9^{9}}}}``) block the interpreter for seconds and allocate gigabytes. So the kernel ends a worker that
exceeds its limit or its address space, and a new worker replaces it. The limit counts processor time, so that a reward
does not depend on the machine's load. A worker is ended from here only when it uses no processor time for minutes.
"""

import contextlib
import logging
import multiprocessing
import os
import resource
import signal
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, NamedTuple

from tasks.errors import HarvestError
from tasks.idleness import LOOK_S, Idleness, processor_seconds
from tasks.parent_death import die_with_parent
from tasks.scoring.math_equality import Outcome, compare, shared_text
from tasks.time_limits import time_limit

LIMIT_S = 6.0
"""Processor seconds for one answer. A slow or crowded processor needs several times those of a quick one."""

START_LIMIT_S = 120.0
"""Processor seconds for the start of a worker."""

IDLE_LIMIT_S = 120.0
"""Seconds for which a worker may use no processor time."""

MEMORY_BYTES = 4 << 30
ANSWERS_PER_START = 32
"""A worker for so many answers: its start takes as much processor time as some dozens of them."""

ANSWERS_PER_WORKER = 2_000
"""A worker is replaced after this many answers, since SymPy's caches grow."""


@dataclass(frozen=True, kw_only=True)
class AnswerPair:
    """A candidate, as the model wrote it, and the ground truth. Both are LaTeX or plain expressions."""

    candidate: str
    gold: str


class Verified(NamedTuple):
    """What became of a list of comparisons."""

    outcomes: list[Outcome]
    """One per comparison, in order."""
    texts: dict[str, str]
    """Per candidate that was wrong, the text that equal ones have too; a candidate without such a text is missing."""


@dataclass(kw_only=True)
class _Worker:
    process: SpawnProcess
    connection: Connection
    idleness: Idleness
    index: int | None = None  # None until it is ready
    answered: int = 0


class _Work:
    """The jobs, what became of them, and which are still to do. A job is a comparison, or a candidate to read."""

    def __init__(self, comparisons: Sequence[AnswerPair], limit_s: float) -> None:
        self.jobs: list[AnswerPair | str] = list(comparisons)
        self.limit_s = limit_s
        self.verified = Verified(outcomes=["timeout"] * len(self.jobs), texts={})
        self.queue = deque(range(len(self.jobs)))
        self.repeated: set[int] = set()
        self._read: set[str] = set()

    def finish(self, index: int, result: Any) -> None:
        """Note the ``result`` of a job: an Outcome, or for a candidate its text or None."""
        job = self.jobs[index]
        if isinstance(job, str):
            if result is not None:
                self.verified.texts[job] = result
            return
        self.verified.outcomes[index] = result
        if result == "wrong" and job.candidate not in self._read:
            self._read.add(job.candidate)
            self.queue.append(len(self.jobs))
            self.jobs.append(job.candidate)


def verify_all(comparisons: Sequence[AnswerPair], *, workers: int | None = None, limit_s: float = LIMIT_S) -> Verified:
    """Compare, and read what is wrong. Each comparison and each reading may take ``limit_s`` processor seconds.

    A comparison that ends its worker in another way, such as by lack of memory, is a ``timeout`` too. One whose worker
    was killed or idle may not be to blame, so it is done once more. Raises HarvestError when a worker does not start.
    """
    work = _Work(comparisons, time_limit(limit_s))
    count = min(workers or len(os.sched_getaffinity(0)), -(-len(comparisons) // ANSWERS_PER_START))
    pool: list[_Worker] = []
    try:
        pool.extend(_start(work.limit_s) for _ in range(count))
        while pool:
            wait([worker.connection for worker in pool], timeout=LOOK_S)
            for worker in list(pool):
                successor = _advance(worker, work)
                pool.remove(worker)
                if successor is not None:
                    pool.append(successor)
    finally:
        for worker in pool:
            _stop(worker)
    return work.verified


def _advance(worker: _Worker, work: _Work) -> _Worker | None:
    """Take the result of ``worker`` and give it the next comparison.

    Returns the worker to go on with, or None when nothing is left to do.
    """
    if not worker.connection.poll():
        if worker.idleness.seconds() < time_limit(IDLE_LIMIT_S):
            return worker
        return _replace(worker, work, "used no processor time", again=True)
    try:
        result = worker.connection.recv()
    except (EOFError, ConnectionError):
        worker.process.join()
        return _replace(worker, work, "ended", again=worker.process.exitcode == -signal.SIGKILL)
    if worker.index is not None:
        work.finish(worker.index, result)
        worker.answered += 1
    if worker.answered >= ANSWERS_PER_WORKER:
        return _replace(worker, work, "ended")
    if not work.queue:
        _stop(worker)
        return None
    worker.index = work.queue.popleft()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has ended, which the next look finds
        worker.connection.send(work.jobs[worker.index])
    worker.idleness = _idleness(worker.process)
    return worker


def _replace(worker: _Worker, work: _Work, what: str, *, again: bool = False) -> _Worker | None:
    _stop(worker)
    if worker.index is None:
        raise HarvestError(f"a Math-Verify worker {what} while it started. Free memory or processors, then score again")
    if again and worker.index not in work.repeated:
        work.repeated.add(worker.index)
        work.queue.append(worker.index)
    return _start(work.limit_s) if work.queue else None


def _start(limit_s: float) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, os.getpid(), limit_s), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process=process, connection=ours, idleness=_idleness(process))


def _idleness(process: SpawnProcess) -> Idleness:
    return Idleness(partial(processor_seconds, process.pid or 0))


def _stop(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.join()
    worker.connection.close()


def _serve(connection: Connection, parent_pid: int, limit_s: float) -> None:
    die_with_parent(parent_pid)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    logging.disable(logging.CRITICAL)  # Math-Verify logs every expression that it cannot read
    # SIGPROF keeps its default action, which ends the process even inside C code
    signal.setitimer(signal.ITIMER_PROF, time_limit(START_LIMIT_S))
    # this loads the libraries and fills their caches before the limit of an answer runs
    ready = compare("x^2+2x+\\frac{4}{4}", "(x+1)^2")
    signal.setitimer(signal.ITIMER_PROF, 0)
    connection.send(ready)
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_PROF, limit_s)
        result = shared_text(job) if isinstance(job, str) else compare(job.candidate, job.gold)
        signal.setitimer(signal.ITIMER_PROF, 0)
        connection.send(result)
