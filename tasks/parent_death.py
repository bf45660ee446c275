"""Make a process die with its parent, by the kernel's parent-death signal (prctl(2), PR_SET_PDEATHSIG).

Without it vLLM's engine core and worker processes live on, and hold the GPU, when their replica is killed.
``multiprocessing`` spawns them, and they import modules for seconds before any code of vLLM runs. So the module
``sitecustomize`` in ``tasks/interpreter``, which Python imports before everything else, asks for the signal.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

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
    die_with_parent(int(parent))
    os.environ[PARENT_VARIABLE] = str(os.getpid())
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    return True
