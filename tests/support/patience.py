"""How long a test waits: for events, as long as it takes. A limit only ends a hang, and says what hangs.

A loaded machine or a slow one is no failure, so every limit is ``HANG_SECONDS`` on a quiet machine of the kind that the
suite was written on, times the slowness of this one: what was measured when the session started and when a limit was
reached, or what waits for a core at the moment, as load comes and goes. No other place in ``tests/`` may sleep or name
a limit in seconds: ``tests/test_no_clocks.py`` looks for both.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import AnyStr, TypeVar

import psutil

HANG_SECONDS = 240.0
"""Longest wait for one event on a quiet machine: some ten times what the slowest of them takes."""
SHORT_SECONDS = 0.05
"""A limit that a test wants to be reached, or a pause that it wants to pass."""
HTTP_SECONDS = 30.0
"""Longest wait for one answer of a server of the tests, ``scaled``."""
END_SECONDS = 60.0
"""Time for a process to end on SIGTERM, ``scaled``, before the clean-up of a test kills it."""
GRACE_SECONDS = 10.0
"""Time, ``scaled``, for what ends by itself after a test: a thread told to, a process whose parent was killed."""
POLL_SECONDS = 0.05
LONGEST_POLL_SECONDS = 0.25
"""Time between two looks in a long wait. A look takes processor time: a request to a server, a list of processes."""
SLOWNESS_VARIABLE = "HARVEST_TESTS_SLOWNESS"
MAX_SLOWNESS = 20.0
LOG_LINES = 60

_WORK = "sum(i * i for i in range(8_000_000))"
_WORK_SECONDS = 0.26
"""Time of a Python process that does ``_WORK``, on the quiet machine of ``HANG_SECONDS``."""

Found = TypeVar("Found")
Process = subprocess.Popen[bytes] | subprocess.Popen[str]


class HangError(AssertionError):
    """An event did not come. The message has what was waited for, and the processes and logs of the test."""


def slowness() -> float:
    """How many times slower than the quiet machine this one was when last measured, or is now; 1 at least."""
    return max(float(os.environ.get(SLOWNESS_VARIABLE, "1")), min(MAX_SLOWNESS, _crowding()))


def _crowding() -> float:
    """How many processes run on a core or wait for it, now or on average over the last minute; costs nothing."""
    average, *_, running, _ = Path("/proc/loadavg").read_text().split()
    return max(float(average), float(running.partition("/")[0])) / len(os.sched_getaffinity(0))


def measure_slowness() -> float:
    """Measure how slow this machine is now, keep it for ``slowness`` of this process and its children, and return it.

    The measure is a process like those of the tests, so it sees a slow processor and a busy one. The number of
    processes that wait for a core is one too: what has just been started gets more than its share.
    """
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", _WORK], check=True)
    measured = (time.perf_counter() - began) / _WORK_SECONDS
    found = min(MAX_SLOWNESS, max(1.0, measured, _crowding()))
    os.environ[SLOWNESS_VARIABLE] = f"{found:.2f}"
    return found


def scaled(seconds: float) -> float:
    """Seconds for a limit that a healthy process must not reach, on a machine as slow as this one is now.

    Load may come later all the same. So what a test holds back must show progress meanwhile: then the limit is one for
    a single step, and not for the test.
    """
    return seconds * slowness()


def until(
    event: Callable[[], Found], waiting_for: str, *, alive: Iterable[Process] = (), logs: Iterable[Path] = ()
) -> Found:
    """Call ``event`` until it returns something true, and return that.

    Raises HangError when the limit is reached, and AssertionError as soon as one of the processes ``alive`` has ended.
    The message of both has the tail of each of ``logs``, and what the process wrote to its pipes.
    """
    alive, logs = list(alive), list(logs)
    for _ in _polls(waiting_for, alive, logs):
        if found := event():
            return found
        if ended := [process for process in alive if process.poll() is not None]:
            # it may have ended right after it did what is waited for
            if found := event():
                return found
            raise AssertionError(
                f"process {ended[0].pid} ended with {ended[0].returncode} before this: {waiting_for}\n"
                f"{_pipes(ended[0])}{tails(logs)}"
            )
    raise AssertionError("unreachable")


def until_or_limit(left: Callable[[], Found], seconds: float) -> Found:
    """Call ``left`` until it returns nothing, ``seconds`` at most; returns what it returned last."""
    end = time.monotonic() + seconds
    while (found := left()) and time.monotonic() < end:
        time.sleep(POLL_SECONDS)
    return found


def until_gone(left: Callable[[], Found], seconds: float) -> Found:
    """As ``until_or_limit``, for what ends by itself: the limit grows while load comes."""
    began = time.monotonic()
    while (found := left()) and time.monotonic() < began + scaled(seconds):
        time.sleep(POLL_SECONDS)
    return found


def is_alive(process: psutil.Process) -> bool:
    """Tell whether a process still runs. One whose parent has ended may stay a zombie: no one reads its exit code."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def await_exit(process: Process, waiting_for: str = "the end of a process", *, logs: Iterable[Path] = ()) -> int:
    """Wait until a process that writes to no pipe has ended; returns its exit code. Raises HangError."""
    until(lambda: process.poll() is not None, waiting_for, logs=logs)
    return process.wait()


def read_to_end(
    process: "subprocess.Popen[AnyStr]", waiting_for: str = "the end of a process", *, tick: Callable[[], object] = int
) -> tuple[AnyStr, AnyStr]:
    """Return what a process writes to its pipes until it has ended. ``tick`` is called meanwhile. Raises HangError."""
    for _ in _polls(waiting_for, [process], []):
        tick()
        try:
            return process.communicate(timeout=10 * POLL_SECONDS)
        except subprocess.TimeoutExpired:
            continue
    raise AssertionError("unreachable")


def end(process: Process) -> None:
    """End a process in the clean-up of a test: SIGTERM, and SIGKILL if that is not enough. No pipe is read."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(END_SECONDS * slowness())
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def pause(seconds: float = SHORT_SECONDS) -> None:
    """Let time pass: in a fake whose work takes time, or before a look at what must not have happened."""
    time.sleep(seconds)


def tails(logs: Iterable[Path]) -> str:
    """The last lines of each file that exists, under its name."""
    return "".join(
        f"--- {path}\n{''.join(path.read_text(errors='replace').splitlines(keepends=True)[-LOG_LINES:])}\n"
        for path in logs
        if path.is_file()
    )


def _polls(waiting_for: str, processes: list[Process], logs: list[Path]) -> Iterator[None]:
    """Yield again and again until the limit is reached; then raise HangError."""
    began = time.monotonic()
    limit = HANG_SECONDS * slowness()
    while True:
        yield
        waited = time.monotonic() - began
        if waited > limit:
            limit = HANG_SECONDS * measure_slowness()
        if waited > limit:
            raise HangError(
                f"waited {waited:.0f} s for this: {waiting_for}\nthe machine is {slowness():.1f} times slower than a "
                f"quiet one; load {os.getloadavg()}\n{_stacks(processes)}{tails(logs)}"
            )
        time.sleep(min(max(POLL_SECONDS, waited / 20), LONGEST_POLL_SECONDS))


def _stacks(processes: list[Process]) -> str:
    """List every process under this one, and end those of the test with a signal at which each prints its stacks.

    ``PYTHONFAULTHANDLER`` is set for them (``tests.support.harvest_command.environment``), so the stacks are in their
    logs, or in the pipes of ``processes``.
    """
    lines = []
    children = psutil.Process().children(recursive=True)
    for child in children:
        try:
            words = " ".join(child.cmdline())
            lines.append(
                f"{child.pid} (child of {child.ppid()}) {child.status()} {child.cpu_times().user:.1f} s {words[:200]}"
            )
        except psutil.NoSuchProcess:
            continue
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(process.pid)
            for each in [*root.children(recursive=True), root]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.send_signal(signal.SIGABRT)
    time.sleep(1)
    return "".join(f"{line}\n" for line in lines) + "".join(map(_pipes, processes))


def _pipes(process: Process) -> str:
    """What a process that has ended, or is killed now, wrote to its pipes."""
    if process.stdout is None and process.stderr is None:
        return ""
    if process.poll() is None:
        process.kill()
    try:
        written = process.communicate(timeout=10)
    except (subprocess.TimeoutExpired, ValueError):
        return f"--- pipes of process {process.pid}: held by another process\n"
    texts = [text.decode(errors="replace") if isinstance(text, bytes) else text for text in written if text]
    return "".join(f"--- written by process {process.pid}\n{text[-6000:]}\n" for text in texts)
