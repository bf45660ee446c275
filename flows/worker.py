"""A Prefect worker that ends its flow runs before itself.

Prefect's own worker, asked to stop, kills its flow runs' processes at once: no state is set, and the runs stay Running.
Here they are asked first, and say that they crashed.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import psutil

from flows.worker_home import VARIABLE
from tasks.parent_death import die_with_parent

FLOW_SECONDS = 30.0
"""What a flow run has to end its replicas and to tell the server."""
REPORT_SECONDS = 5.0
"""What the worker has to report flow runs that ended without a word, such as while they imported: they would stay
Pending."""
WORKER_SECONDS = 15.0


class _StopRequestedError(Exception):
    """SIGTERM or Ctrl-C came."""


def run_worker(arguments: Sequence[str]) -> int:
    """Run ``prefect worker start`` with ``arguments`` until it ends or this process is asked to stop; its exit code.

    The flow runs work in HARVEST_HOME, which is this process's directory unless it is set.
    """
    environment = dict(os.environ)
    environment.setdefault(VARIABLE, str(Path.cwd()))
    # a session of its own: Ctrl-C in a terminal is for this process to pass on, in the right order
    worker = subprocess.Popen(
        [sys.executable, "-m", "prefect", "worker", "start", *arguments],
        env=environment,
        start_new_session=True,
        # a worker that outlived this process would be there beside the next one
        preexec_fn=partial(die_with_parent, os.getpid()),
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    try:
        return worker.wait()
    except _StopRequestedError:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        _end_flow_runs(worker.pid)
        worker.terminate()
        try:
            worker.wait(WORKER_SECONDS)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
        return 0


def _end_flow_runs(worker_pid: int) -> None:
    try:
        processes = psutil.Process(worker_pid).children()
    except psutil.NoSuchProcess:
        return
    if not processes:
        return
    for process in processes:
        try:
            process.terminate()
        except psutil.NoSuchProcess:
            continue
    deadline = time.monotonic() + FLOW_SECONDS
    # the worker reaps them, and a zombie has said all it had to say
    while any(_lives(process) for process in processes) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(REPORT_SECONDS)


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _stop(number: int, frame: Any) -> NoReturn:
    raise _StopRequestedError
