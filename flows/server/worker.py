"""A Prefect worker that ends its flow runs before itself.

Prefect's own worker, asked to stop, kills its flow runs' processes at once: no state is set, and the runs stay Running,
which takes their places in the pool for good. Here they are asked first, and say that they crashed; for one that could
not, this process says it.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import UUID

import psutil

from flows.worker_home import HOME_VARIABLE
from tasks.parent_death import die_with_parent

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import State

FLOW_END_SECONDS = 30.0
"""What a flow run has to end its replicas and to tell the server."""
WORKER_REPORT_SECONDS = 5.0
"""What Prefect's worker has to report flow runs that ended without a word, such as while they imported, before this
process does."""
REPORT_TIMEOUT_SECONDS = 30.0
"""How long a server that is slow or away is asked for the states of flow runs that have ended."""
WORKER_END_SECONDS = 15.0
_FLOW_RUN_VARIABLE = "PREFECT__FLOW_RUN_ID"


class _StopRequestedError(Exception):
    """SIGTERM or Ctrl-C came."""


def run_worker(arguments: Sequence[str]) -> int:
    """Run ``prefect worker start`` with ``arguments`` until it ends or this process is asked to stop; its exit code.

    The flow runs work in HARVEST_HOME, which is this process's directory unless it is set.
    """
    environment = dict(os.environ)
    environment.setdefault(HOME_VARIABLE, str(Path.cwd()))
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
            worker.wait(WORKER_END_SECONDS)
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
    flow_run_ids = [found for process in processes if (found := _flow_run_of(process)) is not None]
    for process in processes:
        try:
            process.terminate()
        except psutil.NoSuchProcess:
            continue
    deadline = time.monotonic() + FLOW_END_SECONDS
    # the worker reaps them, and a zombie has said all it had to say
    while any(_lives(process) for process in processes) and time.monotonic() < deadline:
        time.sleep(0.1)
    report_ended(flow_run_ids)


def _flow_run_of(process: psutil.Process) -> UUID | None:
    try:
        return UUID(process.environ()[_FLOW_RUN_VARIABLE])
    except (psutil.Error, OSError, KeyError, ValueError):
        return None


def report_ended(flow_run_ids: list[UUID]) -> None:
    """Have the server know that these flow runs, whose processes have ended, are over."""
    # imported here: a worker that waits for years needs none of it
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    began = time.monotonic()
    unreported = set(flow_run_ids)
    while unreported and time.monotonic() < began + REPORT_TIMEOUT_SECONDS:
        late = time.monotonic() >= began + WORKER_REPORT_SECONDS
        for flow_run_id in list(unreported):
            # one that the server will not take must not stand in the way of the others
            with (
                contextlib.suppress(Exception),
                temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
                get_client(sync_client=True) as client,
            ):
                if _is_over(client, flow_run_id, report=late):
                    unreported.discard(flow_run_id)
        if unreported:
            time.sleep(0.5)


def _is_over(client: "SyncPrefectClient", flow_run_id: UUID, *, report: bool) -> bool:
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Cancelled, Crashed

    try:
        state = client.read_flow_run(flow_run_id).state
    except ObjectNotFound:
        return True
    # one that waits for its retry is another worker's
    if state is None or state.is_final() or state.is_scheduled():
        return True
    if report:
        message = "The worker was shut down. The same run again goes on where this one stopped."
        ended: State[Any] = Cancelled(message=message) if state.is_cancelling() else Crashed(message=message)
        client.set_flow_run_state(flow_run_id, ended, force=True)
    return report


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _stop(number: int, frame: Any) -> NoReturn:
    raise _StopRequestedError
