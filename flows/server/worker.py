"""Runs a Prefect worker that ends its flow runs in an orderly way before it stops.

When Prefect's own worker is asked to stop, it kills the processes of its flow runs at once. Nobody sets their state
then: the runs stay Running, and hold their slots in the pool for good. This process first asks the flow runs to end, so
that they report the state Crashed. If one does not, this process reports it.
"""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from functools import partial
from multiprocessing import resource_tracker
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
"""How long a flow run has to end its replicas and to report its state to the server."""
WORKER_REPORT_SECONDS = 5.0
"""How long Prefect's worker has to report a flow run that ended without a report, for example during its imports.
After that, this process reports it."""
REPORT_TIMEOUT_SECONDS = 30.0
"""For how long this process tries to report ended flow runs to a server that is slow or does not answer."""
WORKER_END_SECONDS = 15.0
"""How long Prefect's worker has to end before it is killed."""
_FLOW_RUN_VARIABLE = "PREFECT__FLOW_RUN_ID"


class _StopRequestedError(Exception):
    """This process received SIGTERM or Ctrl-C."""


def run_worker(arguments: Sequence[str]) -> int:
    """Run ``prefect worker start`` with ``arguments`` until it ends or a signal stops this process.

    Returns the worker's exit code, or 0 after a signal. The flow runs work in HARVEST_HOME; if it is not set, in this
    process's working directory.
    """
    environment = dict(os.environ)
    environment.setdefault(HOME_VARIABLE, str(Path.cwd()))
    # in a session of its own, because a terminal would send Ctrl-C to the worker too, before its flow runs have ended
    worker = subprocess.Popen(
        [sys.executable, "-m", "prefect", "worker", "start", *arguments],
        env=environment,
        start_new_session=True,
        # a worker that outlived this process would run beside the next one
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


def end_orderly() -> None:
    """Have Ctrl-C end this process as SIGTERM does, after its flow runs, which a terminal does not interrupt then.

    Call it in the main thread, before any other thread and process starts.
    """
    # its start, with the first process, would have this thread take interrupts again
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    threading.Thread(target=_wait_for_interrupt, name="interrupt", daemon=True).start()


def _wait_for_interrupt() -> None:
    signal.sigwait({signal.SIGINT})
    _end(_processes([child.pid for child in multiprocessing.active_children()]))
    os.kill(os.getpid(), signal.SIGTERM)


def _end_flow_runs(worker_pid: int) -> None:
    try:
        processes = psutil.Process(worker_pid).children()
    except psutil.NoSuchProcess:
        return
    if not processes:
        return
    flow_run_ids = [found for process in processes if (found := _flow_run_id(process)) is not None]
    _end(processes)
    report_ended(flow_run_ids)


def _processes(pids: Sequence[int | None]) -> list[psutil.Process]:
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(psutil.Process(pid))
    return found


def _end(processes: Sequence[psutil.Process]) -> None:
    """Ask the processes to end, and wait ``FLOW_END_SECONDS`` for them."""
    for process in processes:
        try:
            process.terminate()
        except psutil.NoSuchProcess:
            continue
    deadline = time.monotonic() + FLOW_END_SECONDS
    # zombies count as ended: the worker reaps them
    while any(_is_alive(process) for process in processes) and time.monotonic() < deadline:
        time.sleep(0.1)


def _flow_run_id(process: psutil.Process) -> UUID | None:
    try:
        return UUID(process.environ()[_FLOW_RUN_VARIABLE])
    except (psutil.Error, OSError, KeyError, ValueError):
        return None


def report_ended(flow_run_ids: list[UUID]) -> None:
    """Give these flow runs, whose processes have ended, a final state on the server if nobody else does."""
    # imported here because a worker that only waits needs none of it
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    began = time.monotonic()
    unreported = set(flow_run_ids)
    while unreported and time.monotonic() < began + REPORT_TIMEOUT_SECONDS:
        late = time.monotonic() >= began + WORKER_REPORT_SECONDS
        for flow_run_id in list(unreported):
            # a report that the server refuses must not keep the others from being sent
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
    # another worker takes a flow run that is scheduled for a retry
    if state is None or state.is_final() or state.is_scheduled():
        return True
    if report:
        message = "The worker was shut down. The same run again goes on where this one stopped."
        ended: State[Any] = Cancelled(message=message) if state.is_cancelling() else Crashed(message=message)
        client.set_flow_run_state(flow_run_id, ended, force=True)
    return report


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _stop(number: int, frame: Any) -> NoReturn:
    raise _StopRequestedError
