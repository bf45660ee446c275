"""Call a function in a subprocess, so that its memory is free again afterwards.

Polars does not return the memory that reading all rollouts of a run takes. The flow therefore has a subprocess read
them, and is as small at the end of a run as while it generated.
"""

import contextlib
import logging
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from tasks.errors import HarvestError
from tasks.gc_freeze import gc_frozen
from tasks.parent_death import die_with_parent

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def call_in_subprocess(
    function: Callable[Parameters, Result],
    label: str,
    log_path: Path,
    *arguments: Parameters.args,
    **options: Parameters.kwargs,
) -> Result:
    """Return ``function(*arguments, **options)``, called in a subprocess that dies with this process.

    ``function`` is a module's function: it is pickled by name. ``label`` says what the call does, such as "summary of
    RUN_ID"; error messages and the system's list of processes show it. The output goes to ``log_path``.

    Raises the HarvestError that the function raised. Raises a HarvestError that names the log when the function raised
    anything else or the subprocess was killed.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("wb") as log:
        ended = subprocess.run(
            [sys.executable, "-P", "-m", "tasks.subprocess_call", str(os.getpid()), label],
            input=pickle.dumps((function, arguments, options)),
            stdout=subprocess.PIPE,
            stderr=log,
            check=False,
        )
    if ended.returncode:
        raise HarvestError(
            f"{label}: the process {how_it_ended(ended.returncode, log_path)} (log: {log_path}). "
            "Run the same command again; finished rollouts are kept"
        )
    error, result = pickle.loads(ended.stdout)
    if error is not None:
        raise error
    returned: Result = result
    return returned


def how_it_ended(code: int, log_path: Path) -> str:
    """Return how a process with the exit code ``code`` ended, as words that follow its name."""
    if code == -signal.SIGKILL:
        return "was killed, as the kernel does when memory runs out"
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    lines = log_path.read_text(errors="replace").strip().splitlines()
    return f"ended with code {code}: {lines[-1].strip() if lines else 'the log is empty'}"


def main(parent_pid: int) -> None:
    """Run the call that standard input holds, and write the pickled error and result to standard output.

    What the function prints goes to standard error, which is the log.
    """
    die_with_parent(parent_pid)
    logging.basicConfig(level=logging.INFO)
    error, result = None, None
    with contextlib.redirect_stdout(sys.stderr):
        with gc_frozen():
            # imports what the function needs
            function, arguments, options = pickle.load(sys.stdin.buffer)
        try:
            result = function(*arguments, **options)
        except HarvestError as raised:
            logging.exception("the call failed")
            error = raised
    sys.stdout.buffer.write(pickle.dumps((error, result)))


if __name__ == "__main__":
    main(int(sys.argv[1]))
