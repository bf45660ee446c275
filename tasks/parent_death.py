"""Dying with the process that one works for: asked of the kernel, in the first moments of one's own life.

vLLM's engine core and worker processes would otherwise live on, holding the GPU, when their replica is killed. They
are spawned by ``multiprocessing`` and import for seconds before any code of vLLM's runs, so the request is made by
the ``sitecustomize`` module in ``tasks/interpreter``, which Python imports before everything else.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

PARENT_VARIABLE = "HARVEST_PARENT_PID"
SITECUSTOMIZE_DIRECTORY = Path(__file__).parent / "interpreter"
"""To be on PYTHONPATH of whatever owns an engine, and so of all that it spawns."""

_PR_SET_PDEATHSIG = 1


def guarded_python_path() -> str:
    """PYTHONPATH with which a process imports what this one would, and whatever it spawns is guarded."""
    return os.pathsep.join([str(SITECUSTOMIZE_DIRECTORY), *(path or str(Path.cwd()) for path in sys.path)])


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel SIGKILL this process when the thread that started it ends (prctl(2)); exit if it has."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)


def die_with_spawning_parent() -> None:
    """Die with the process named by the environment, and have those that this one spawns die with it in turn.

    Only processes that ``multiprocessing`` spawned: helpers may be started from threads that end before they do.
    """
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is not None and "--multiprocessing-fork" in sys.orig_argv:
        die_with_parent(int(parent))
        os.environ[PARENT_VARIABLE] = str(os.getpid())
