"""Make a process die with its parent, by the kernel's parent-death signal (prctl(2), PR_SET_PDEATHSIG).

Without it vLLM's engine core and worker processes live on, and hold the GPU, when their replica is killed.
Those that ``multiprocessing`` spawns import modules for seconds before any code of vLLM runs. So the module
``sitecustomize`` in ``tasks/interpreter``, which Python imports before everything else, asks for the signal. Those that
it forks run nothing new, and ask for it by a ``ForkGuard``.
"""

import ctypes
import gc
import os
import signal
import sys
from collections.abc import Sequence
from multiprocessing import parent_process, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.util import register_after_fork
from pathlib import Path
from typing import Any

PARENT_VARIABLE = "HARVEST_PARENT_PID"
"""Environment variable with the pid of the process that spawned processes die with."""
SITECUSTOMIZE_DIRECTORY = Path(__file__).parent / "interpreter"
"""Must be on PYTHONPATH of a process that owns an engine; the processes that it spawns inherit PYTHONPATH."""

_PR_SET_PDEATHSIG = 1


def guarded_python_path() -> str:
    """Return a PYTHONPATH with this process's import path, under which spawned processes die with their parent."""
    return os.pathsep.join([str(SITECUSTOMIZE_DIRECTORY), *(path or str(Path.cwd()) for path in sys.path)])


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when the thread that started it ends; exit if ``parent_pid`` has ended."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)


def die_with_spawning_parent() -> bool:
    """Die with the process that ``PARENT_VARIABLE`` names, and set it to this process for those that it spawns.

    Blocks Ctrl-C, for which vLLM's engine core has a handler that aborts its requests; only the parent of the replicas
    acts on it. Does nothing, and returns False, in a process that ``multiprocessing`` did not spawn: a thread may start
    a process and end before it.
    """
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is None or "--multiprocessing-fork" not in sys.orig_argv:
        return False
    die_as_engine(int(parent))
    return True


class ForkGuard:
    """Makes what ``multiprocessing`` forks from this process, and from those, as safe as what it spawns.

    Such a process dies with its parent and does not hear Ctrl-C. It closes its copies of the connections ``to_close``:
    while one is open, the other end does not notice that this process has ended. It collects garbage, also when
    its parent does not, but never scans what it inherited. Keep the guard: it works while it exists.
    """

    def __init__(self, to_close: "Sequence[Connection[Any, Any]]") -> None:
        self._to_close = to_close
        # started later, by what is forked, it would unblock Ctrl-C there
        resource_tracker.ensure_running()
        # not os.register_at_fork: a library may fork in a thread that ends before what it forked
        register_after_fork(self, ForkGuard._begin)

    def _begin(self) -> None:
        parent = parent_process()
        assert parent is not None
        assert parent.pid is not None
        die_as_engine(parent.pid)
        for inherited in self._to_close:
            inherited.close()
        gc.freeze()
        gc.enable()


def die_as_engine(parent_pid: int) -> None:
    """Die with the process ``parent_pid``, leave Ctrl-C to others, and have what this process spawns die with it."""
    die_with_parent(parent_pid)
    os.environ[PARENT_VARIABLE] = str(os.getpid())
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
