"""Fails a test that leaves something behind: processes, threads, open files, listening ports.

Environment variables are put back, and no test fails for them: libraries set some when they are imported, as trl does
to make vLLM silent.

Processes are this process's descendants, and those that inherited the variables which tell of this process and of its
test: so one whose parent has ended is found too. Another session on the machine may run the same test at the same time.
What a session's fixtures start is announced with ``outlives_the_test``.
"""

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tests.support.patience import GRACE_SECONDS, SLOWNESS_VARIABLE, until_gone

_HELPERS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")
"""Processes that Python starts once and keeps until its own end."""

PROCESS_VARIABLE = "HARVEST_TESTS_PID"
"""Environment variable: the process id of the pytest that runs a test."""
_OF_THE_SESSION = ("PYTEST_CURRENT_TEST", SLOWNESS_VARIABLE)
"""Environment variables that pytest and ``tests.support.patience`` change for all tests."""
KERNEL_THREADS = 2
"""The process whose children are the kernel's threads."""

_outliving: set[int] = set()


def outlives_the_test(pid: int) -> None:
    """Say that a process belongs to a fixture of the session."""
    _outliving.add(pid)


@dataclass(frozen=True, kw_only=True)
class Belongings:
    """What this process and the running test have at a moment."""

    pids: set[int] = field(default_factory=set)
    """All processes of the machine."""
    processes: dict[int, str] = field(default_factory=dict)
    """Command lines, by pid, of the test's processes."""
    threads: set[threading.Thread] = field(default_factory=set)
    files: set[str] = field(default_factory=set)
    """Open files below the session's temporary folder."""
    ports: set[int] = field(default_factory=set)

    @classmethod
    def now(cls, test: str, folder: Path, before: "Belongings | None" = None) -> "Belongings":
        """With ``before``, also the processes that the test has begun since then."""
        files, ports = _open_files(folder)
        pids = set(psutil.pids())
        return cls(
            pids=pids,
            processes=dict(_processes_of(test, pids - before.pids)) if before else {},
            threads={thread for thread in threading.enumerate() if not thread.daemon},
            files=files,
            ports=ports,
        )

    def since(self, before: "Belongings") -> list[str]:
        """Say what is here that was not there before, a line each."""
        return [
            *(f"process {pid}: {words}" for pid, words in self.processes.items()),
            *(f"thread {thread.name}" for thread in self.threads - before.threads),
            *(f"open file {path}" for path in self.files - before.files),
            *(f"listening port {port}" for port in self.ports - before.ports),
        ]


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fails the test when it leaves something behind that does not end by itself soon."""
    test, folder = request.node.nodeid, tmp_path_factory.getbasetemp()
    os.environ[PROCESS_VARIABLE] = str(os.getpid())
    before = Belongings.now(test, folder)
    with _environment_kept():
        yield
    left = until_gone(lambda: Belongings.now(test, folder, before).since(before), GRACE_SECONDS)
    if left:
        _end_processes(test, set(psutil.pids()) - before.pids)
        pytest.fail("this test left behind:\n" + "\n".join(left), pytrace=False)


@contextlib.contextmanager
def _environment_kept() -> Iterator[None]:
    before = dict(os.environ)
    yield
    kept = {name: os.environ[name] for name in _OF_THE_SESSION if name in os.environ}
    if dict(os.environ) != before | kept:
        os.environ.clear()
        os.environ.update(before | kept)


def _processes_of(test: str, pids: set[int]) -> Iterator[tuple[int, str]]:
    """Those of the processes ``pids`` that belong to the test, with their command lines."""
    wanted = (f"PYTEST_CURRENT_TEST={test} (".encode(), f"{PROCESS_VARIABLE}={os.getpid()}\0".encode())
    for pid in pids:
        # the process may end at any moment
        with contextlib.suppress(OSError, psutil.NoSuchProcess):
            above = list(_ancestors(pid))
            if KERNEL_THREADS in above or _outliving.intersection((pid, *above)):
                continue
            variables = Path(f"/proc/{pid}/environ").read_bytes()
            if os.getpid() in above or all(text in variables for text in wanted):
                words = " ".join(psutil.Process(pid).cmdline())
                if words and not any(name in words for name in _HELPERS):
                    yield pid, words[:300]


def _ancestors(pid: int) -> Iterator[int]:
    while pid > 1:
        # the program's name, in brackets, may have any characters
        pid = int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
        yield pid


def _open_files(folder: Path) -> tuple[set[str], set[int]]:
    """The open files below ``folder``, and the ports at which this process listens."""
    files: set[str] = set()
    ports: set[int] = set()
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            target = str(path.readlink())
            if target.startswith(str(folder)):
                files.add(target)
            elif target.startswith("socket:"):
                with socket.socket(fileno=os.dup(int(path.name))) as copy:
                    if copy.family != socket.AF_UNIX and copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                        ports.add(copy.getsockname()[1])
    return files, ports


def _end_processes(test: str, pids: set[int]) -> None:
    for pid, _ in _processes_of(test, pids):
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).kill()
