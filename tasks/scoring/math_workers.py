"""Runs Math-Verify in subprocesses, with a hard time limit for each answer.

Math-Verify's own limit is an alarm signal: it works only in a main thread, and it clears other alarms. Some answers
(``\\boxed{9^{9^{9^{9}}}}``) block the interpreter for seconds and allocate gigabytes. So the kernel ends a worker that
exceeds its limit or its address space, and a new worker replaces it. The limit counts processor time, so that a reward
does not depend on the machine's load. A much longer wall-clock limit ends a worker that waits without computing.
"""

import logging
import multiprocessing
import os
import resource
import signal
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Literal

from tasks.errors import HarvestError
from tasks.parent_death import die_with_parent

LIMIT_S = 2.0
"""Processor seconds for one answer."""

WALL_FACTOR = 30
"""The wall-clock limit of an answer, as a multiple of its processor limit."""

START_LIMIT_S = 120.0
MEMORY_BYTES = 4 << 30
ANSWERS_PER_WORKER = 2_000
"""A worker is replaced after this many answers, since SymPy's caches grow."""

Outcome = Literal["right", "wrong", "bad_gold", "timeout"]


@dataclass(frozen=True, kw_only=True)
class AnswerPair:
    """A candidate, as the model wrote it, and the ground truth. Both are LaTeX or plain expressions."""

    candidate: str
    gold: str


@dataclass(kw_only=True)
class _Worker:
    process: SpawnProcess
    connection: Connection
    deadline: float
    index: int | None = None  # None until it is ready
    answered: int = 0


def verify_all(
    comparisons: Sequence[AnswerPair], *, workers: int | None = None, limit_s: float = LIMIT_S
) -> list[Outcome]:
    """One outcome per comparison, in order. Each comparison may take ``limit_s`` processor seconds.

    A comparison that ends its worker in another way, such as by lack of memory, is a ``timeout`` too.
    Raises HarvestError when a worker does not start.
    """
    outcomes: list[Outcome] = ["timeout"] * len(comparisons)
    queue = deque(range(len(comparisons)))
    count = min(workers or len(os.sched_getaffinity(0)), len(comparisons))
    pool: list[_Worker] = []
    try:
        pool.extend(_start(limit_s) for _ in range(count))
        while pool:
            _wait(pool)
            for worker in list(pool):
                successor = _advance(worker, queue, comparisons, outcomes, limit_s)
                pool.remove(worker)
                if successor is not None:
                    pool.append(successor)
    finally:
        for worker in pool:
            _stop(worker)
    return outcomes


def _wait(pool: list[_Worker]) -> None:
    wait(
        [worker.connection for worker in pool],
        timeout=max(0.0, min(worker.deadline for worker in pool) - time.monotonic()),
    )


def _advance(
    worker: _Worker, queue: deque[int], comparisons: Sequence[AnswerPair], outcomes: list[Outcome], limit_s: float
) -> _Worker | None:
    """Take the result of ``worker`` and give it the next comparison.

    Returns the worker to go on with, or None when nothing is left to do.
    """
    if not worker.connection.poll():
        if time.monotonic() < worker.deadline:
            return worker
        return _replace(worker, queue, limit_s, "did not start in time")
    try:
        outcome = worker.connection.recv()
    except (EOFError, ConnectionError):
        return _replace(worker, queue, limit_s, "ended while it started")
    if worker.index is not None:
        outcomes[worker.index] = outcome
        worker.answered += 1
    if worker.answered >= ANSWERS_PER_WORKER:
        return _replace(worker, queue, limit_s)
    if not queue:
        _stop(worker)
        return None
    worker.index = queue.popleft()
    worker.connection.send(comparisons[worker.index])
    worker.deadline = time.monotonic() + limit_s * WALL_FACTOR
    return worker


def _replace(worker: _Worker, queue: deque[int], limit_s: float, start_failure: str = "ended") -> _Worker | None:
    _stop(worker)
    if worker.index is None:
        raise HarvestError(f"a Math-Verify worker {start_failure}. Free memory or processors, then score again")
    return _start(limit_s) if queue else None


def _start(limit_s: float) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, os.getpid(), limit_s), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process=process, connection=ours, deadline=time.monotonic() + START_LIMIT_S)


def _stop(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.join()
    worker.connection.close()


def _serve(connection: Connection, parent_pid: int, limit_s: float) -> None:
    die_with_parent(parent_pid)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    logging.disable(logging.CRITICAL)  # Math-Verify logs every expression that it cannot read
    # this loads the libraries and fills their caches before any limit runs
    connection.send(_compare(AnswerPair(candidate="x^2+2x+\\frac{4}{4}", gold="(x+1)^2")))
    while True:
        try:
            comparison = connection.recv()
        except EOFError:
            return
        # SIGPROF keeps its default action, which ends the process even inside C code
        signal.setitimer(signal.ITIMER_PROF, limit_s)
        outcome = _compare(comparison)
        signal.setitimer(signal.ITIMER_PROF, 0)
        connection.send(outcome)


def _compare(comparison: AnswerPair) -> Outcome:
    from math_verify import parse, verify

    gold = parse(f"\\boxed{{{comparison.gold}}}", parsing_timeout=None)
    if not gold:
        return "bad_gold"
    candidate = parse(f"\\boxed{{{comparison.candidate}}}", parsing_timeout=None)
    return "right" if verify(gold, candidate, timeout_seconds=None) else "wrong"
