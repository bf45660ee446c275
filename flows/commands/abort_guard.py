"""Lets a command that reads runs survive a library that aborts.

The files may be somebody else's: they are what was published, but may have been made to harm. Polars aborts the process
at some of them, for instance when they ask for too much memory. So such a command runs in a forked child, and this
process tells how it ended.
"""

import mmap
import os
import signal
from collections.abc import Callable

from flows.terminal import print_error
from tasks.last_read import last_read
from tasks.parent_death import die_with_parent

READERS = frozenset({"arms", "compare", "diff", "export", "mismatch", "push", "report", "runs", "score", "show"})
"""The commands that read runs."""

_ABORTS = {signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGTRAP}
_SIGNALS = {signal.SIGCHLD, signal.SIGHUP, signal.SIGINT, signal.SIGTERM}
_CODE = mmap.mmap(-1, 1)
"""The exit code plus one, from the child; 0 until the command came to its end."""
_OF_A_PROCESS = 0
"""The highest ``si_code`` of a signal that a process sent (sigaction(2)); the terminal's come from the kernel."""


def run_guarded(execute: Callable[[], int]) -> int:
    """Return the exit code of ``execute``, called in a forked child; 1 if a fault or an exit in the middle ended it.

    Call it while this process has one thread. It returns in the child too.
    """
    # until the child is there, signals wait
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        die_with_parent(parent)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        code = execute()
        _CODE[0] = code + 1
        return code
    code = os.waitstatus_to_exitcode(_wait(child))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    if _CODE[0] and code >= 0:
        return _CODE[0] - 1
    if code == 0:
        print_error(
            "harvest: error: something that this command called, such as a scorer, ended the process as if all were "
            "done. Remove its call that exits"
        )
        return 1
    if code >= 0:
        return code
    ended_by = signal.Signals(-code)
    if ended_by in _ABORTS:
        print_error(
            f"harvest: error: a library ended the process by {ended_by.name}; {last_read() or 'no file'} was opened "
            "last. It is damaged, or it was made to do that: download the run again, or do not use it"
        )
        return 1
    if ended_by is not signal.SIGKILL:
        signal.signal(ended_by, signal.SIG_DFL)
    signal.raise_signal(ended_by)
    return 128 - code


def _wait(child: int) -> int:
    """Return the status with which the child ended; pass on the signals that a process sends meanwhile."""
    while True:
        received = signal.sigwaitinfo(_SIGNALS)
        if received.si_signo == signal.SIGCHLD:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return status
        elif received.si_code <= _OF_A_PROCESS:
            # the terminal sends its signals to the child itself
            os.kill(child, received.si_signo)
