"""One piece of work in a process of its own, whose memory goes with it.

What polars takes to read all rollouts of a run is not given back before the process ends. So whatever reads them does
it in a process that is not the flow's, which stays as small at the end of a run as it was while it generated.
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
from tasks.parent_death import die_with_parent

Given = ParamSpec("Given")
Result = TypeVar("Result")


def work_apart(
    work: Callable[Given, Result], log_path: Path, doing: str, *arguments: Given.args, **options: Given.kwargs
) -> Result:
    """The result of ``work``, a function of a module, called with the rest in a process that ends with this one.

    Raises the HarvestError that it raised, or one that names the log: "the process that ``doing`` was killed".
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("wb") as log:
        ended = subprocess.run(
            # what it works on is for those who look at the list of processes
            [sys.executable, "-P", "-m", "tasks.subprocess_call", str(os.getpid()), doing],
            input=pickle.dumps((work, arguments, options)),
            stdout=subprocess.PIPE,
            stderr=log,
            check=False,
        )
    if ended.returncode:
        raise HarvestError(
            f"the process that {doing} {_ending(ended.returncode, log_path)} (log: {log_path}). "
            "Run the same command again: it generates nothing anew"
        )
    error, result = pickle.loads(ended.stdout)
    if error is not None:
        raise error
    worked: Result = result
    return worked


def _ending(code: int, log_path: Path) -> str:
    if code == -signal.SIGKILL:
        return "was killed, as the kernel does when memory runs out"
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    lines = log_path.read_text(errors="replace").strip().splitlines()
    return f"ended with code {code}: {lines[-1].strip() if lines else 'it said nothing'}"


def main(parent_pid: int) -> None:
    """The process: what becomes of the work goes to its standard output, everything else to its log."""
    die_with_parent(parent_pid)
    logging.basicConfig(level=logging.INFO)
    error, result = None, None
    with contextlib.redirect_stdout(sys.stderr):
        work, arguments, options = pickle.load(sys.stdin.buffer)
        try:
            result = work(*arguments, **options)
        except HarvestError as raised:
            logging.exception("it could not be done")
            error = raised
    sys.stdout.buffer.write(pickle.dumps((error, result)))


if __name__ == "__main__":
    main(int(sys.argv[1]))
