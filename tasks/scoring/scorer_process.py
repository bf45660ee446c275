"""Processes that run a scorer of the user: started, lent, ended when a call takes too long.

The user's code has a process of its own, so that a hang, an exit or a crash of it costs a row and not the run, and so
that its modules are found before ours of the same name.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tasks.errors import ConfigError
from tasks.files import parse_record
from tasks.plain_text import one_line
from tasks.scoring import scorer_child
from tasks.time_limits import time_limit

IMPORT_LIMIT_S = 300.0
"""Seconds for the start of a process, in which the user's module is imported."""


@dataclass(frozen=True, kw_only=True)
class ScorerSource:
    """Where a scorer is: a file or a module, and a function in it."""

    place: str
    """The absolute path of a file that ends in .py, or a dotted module."""
    function: str
    given: str
    """As the user gave it, for messages."""


@dataclass(frozen=True, kw_only=True)
class Described:
    """What a process says of its function. ``tasks.scoring.scorer_calls`` says what the forms are called with."""

    form: str
    names: tuple[str, ...]
    """Its parameters."""
    required: tuple[str, ...]
    """Those without a default."""
    takes_all: bool
    """It has ``**keywords``."""
    is_async: bool
    version: str
    file: str | None
    SCORER_TIMEOUT: float
    SCORER_CONCURRENCY: int
    SCORER_RETRIES: int


class ScorerProcess:
    """A process that has imported the function of ``source``. Raises ConfigError when that fails."""

    def __init__(
        self, source: ScorerSource, popen: "Callable[..., subprocess.Popen[bytes]]" = subprocess.Popen
    ) -> None:
        self.is_doubtful = False
        """Whether a call took too long, and may still hold a thread or a connection."""
        self.connection, theirs = Pipe()
        with theirs:
            arguments = [str(theirs.fileno()), str(os.getpid()), source.place, source.function]
            self._process = popen(
                # without -P the directory of the script would be searched for the user's modules
                [sys.executable, "-P", scorer_child.__file__, *arguments],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                # what it prints would be in the middle of what a command prints
                stdout=sys.__stderr__.fileno() if sys.__stderr__ else subprocess.DEVNULL,
                # Ctrl-C is for the run, which ends this process; and all that the user's code starts is ended with it
                start_new_session=True,
            )
        self._end = weakref.finalize(self, _end, self._process, self.connection)
        try:
            self.described = self._read_description(source)
        except BaseException:
            self.end()
            raise

    def _read_description(self, source: ScorerSource) -> Described:
        where = f"scorer {source.given!r}"
        if not self.connection.poll(time_limit(IMPORT_LIMIT_S)):
            raise ConfigError(f"{where} was not imported within {time_limit(IMPORT_LIMIT_S):g} s. Do less at import")
        try:
            data = self.connection.recv_bytes()
            message: dict[str, Any] = json.loads(data)
        except (EOFError, OSError):
            raise ConfigError(
                f"{where}: its import ended the process ({self.how_it_ended()}). Fix the module"
            ) from None
        except ValueError:
            raise ConfigError(
                f"{where}: its import wrote to a file descriptor that is not its own. Fix the module"
            ) from None
        if "wrong" in message:
            at = f", at {message['trace']}" if message.get("trace") else ""
            more = f". {CONTRACT}" if message["wrong"].startswith("its parameters") else ""
            raise ConfigError(one_line(f"{where}: {message['wrong']}{at}{more}", 1_500))
        return parse_record(data, Described)

    def send(self, message: dict[str, Any]) -> None:
        # one that has ended is found by the next look at its connection
        with contextlib.suppress(OSError):
            self.connection.send_bytes(json.dumps(message).encode())

    def how_it_ended(self) -> str:
        """Wait for its end, and say how it was."""
        code = self._process.wait()
        return f"exit code {code}" if code >= 0 else signal.Signals(-code).name

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    @property
    def was_killed(self) -> bool:
        """Whether it was ended from outside, as for want of memory."""
        return self._process.wait() == -signal.SIGKILL

    def end(self) -> None:
        self._end()


CONTRACT = (
    "A scorer is package.module:function or path/to/file.py:function. The function is called by name with completion, "
    "ground_truth, finish_reason and any of question, arm, prompt and columns of the row, and returns a number or a "
    "mapping with reward; harvest init writes one, with its test"
)


def _end(process: "subprocess.Popen[bytes]", connection: "Connection[Any, Any]") -> None:
    connection.close()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


_places = threading.BoundedSemaphore(max(1, len(os.sched_getaffinity(0))))
_described: dict[tuple[ScorerSource, str], tuple[object, Described]] = {}


def describe_scorer(source: ScorerSource) -> Described:
    """What the function of ``source`` is; a process imports it once, and again when its file has changed."""
    key = (source, _directory())
    known = _described.get(key)
    if known is None or known[0] != _state_of(known[1].file):
        process = ScorerProcess(source)
        process.end()
        known = _described[key] = (_state_of(process.described.file), process.described)
    return known[1]


class _Kept:
    """Processes between two callers. Each has imported its module, which can take seconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_ended = False
        self._idle: list[tuple[ScorerSource, object, ScorerProcess]] = []
        # a process ends with the thread that started it, and those that score may end any time
        self._starters = ThreadPoolExecutor(max(1, len(os.sched_getaffinity(0))), thread_name_prefix="scorers")

    def take(self, source: ScorerSource) -> ScorerProcess:
        """Return a process whose file is as it was imported; a new one if there is none."""
        with self._lock:
            known = [entry for entry in self._idle if entry[0] == source]
            self._idle = [entry for entry in self._idle if entry[0] != source]
            while known:
                _, state, process = known.pop()
                if process.is_alive and state == _state_of(process.described.file):
                    self._idle += known
                    return process
                process.end()
            is_ended = self._is_ended
        if is_ended:
            return ScorerProcess(source)
        try:
            return ScorerProcess(source, self._popen)
        except (ConfigError, RuntimeError):
            if not self._is_ended:
                raise
            # its starter has ended, and it with that
            return ScorerProcess(source)

    def _popen(self, *words: Any, **settings: Any) -> "subprocess.Popen[bytes]":
        # only this, as nothing ends a thread that waits for an import
        start: Callable[..., subprocess.Popen[bytes]] = subprocess.Popen
        return self._starters.submit(start, *words, **settings).result()

    def give(self, source: ScorerSource, state: object, process: ScorerProcess) -> None:
        with self._lock:
            if self._is_ended:
                process.end()
            else:
                self._idle.append((source, state, process))

    def end(self) -> None:
        """End the idle processes, and with the threads those that are lent: what they are at is tried once more."""
        with self._lock:
            self._is_ended = True
        for _, _, process in self._idle:
            process.end()
        self._starters.shutdown()


_kept: _Kept | None = None


@contextlib.contextmanager
def kept_processes() -> Iterator[None]:
    """Keep the processes of scorers that nothing went wrong with for the next shard, in this whole process."""
    global _kept
    if _kept is not None:
        yield
        return
    _kept = own = _Kept()
    try:
        yield
    finally:
        _kept = None
        own.end()


@contextlib.contextmanager
def lent_processes(source: ScorerSource) -> Iterator["Lender"]:
    """Yield what lends processes, one at a time, to one caller; as many callers at once as there are processors."""
    with _places:
        lender = Lender(source, _kept)
        try:
            yield lender
            lender.give_back()
        finally:
            lender.end()


class Lender:
    """Lends one process at a time."""

    def __init__(self, source: ScorerSource, kept: _Kept | None = None) -> None:
        self._source, self._kept = source, kept
        self._process: ScorerProcess | None = None
        self._state: object = None

    def process(self) -> ScorerProcess:
        """Return the process that is lent, or another one if that was ended."""
        if self._process is None:
            self._process = ScorerProcess(self._source) if self._kept is None else self._kept.take(self._source)
            self._state = _state_of(self._process.described.file)
        return self._process

    def give_back(self) -> None:
        """Keep the process for the next caller, if processes are kept."""
        if self._process is not None and self._kept is not None and not self._process.is_doubtful:
            self._kept.give(self._source, self._state, self._process)
            self._process = None

    def end(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.end()
            self._process = None


def _state_of(file: str | None) -> object:
    with contextlib.suppress(OSError):
        if file is not None:
            status = Path(file).stat()
            return status.st_mtime_ns, status.st_size, status.st_ino
    return None


def _directory() -> str:
    try:
        return str(Path.cwd())
    except OSError:
        return ""
