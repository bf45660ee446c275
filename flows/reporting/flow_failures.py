"""Puts a failing flow run into the right final state, with the reason in its log."""

import contextlib
import io
import logging
import multiprocessing
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.exceptions import TerminationSignal
from prefect.logging import get_run_logger
from prefect.states import Crashed

from flows.server.interruption import set_interruptible_flow
from flows.server.server_loss import body_ended, is_lost
from tasks.errors import ConfigError, NotEquivalent, OutOfMemory
from tasks.plain_text import visible
from tasks.results.collected import Collected
from tasks.storage.transfer_scope import TransferScope

logger = logging.getLogger(__name__)

LOG_LINES = 40
STATE_SECONDS = 20.0
"""How long a flow run that a signal ends waits for the server to take its state. Its worker reports it otherwise."""

_FINAL = (ConfigError, NotEquivalent, OutOfMemory)
"""Failures that a retry of the flow does not cure."""


@contextlib.contextmanager
def explain_failures() -> Iterator["RunningFlow"]:
    """Run a flow's body. A failure gets the engine's last log lines, no useless retry, and a final state on the server.

    The flow notes what it returns as ``collected`` of the object that is yielded: if the server is lost, the command
    ends with that. When a signal or an interrupt ends the flow, Prefect waits for its tasks' threads, so their
    transfers are stopped.
    """
    context = FlowRunContext.get()
    flow_run = RunningFlow(context.flow_run.id if context is not None and context.flow_run is not None else None)
    set_interruptible_flow(flow_run)
    try:
        with TransferScope():
            flow_run.is_running = True
            try:
                yield flow_run
            finally:
                flow_run.is_running = False
    except TerminationSignal:
        # next, Prefect restores the default handler, which ends the process before the server knows
        flow_run.report_crashed(STATE_SECONDS)
        if multiprocessing.parent_process() is not None:
            # multiprocessing, in which harvest serve runs its flow runs, would print the signal as a traceback
            sys.stderr = io.StringIO()
        raise
    except Exception as error:
        if (log_path := getattr(error, "log_path", None)) is not None:
            log_last_lines(log_path)
        if isinstance(error, _FINAL) and not is_lost():
            _disable_retries()
        body_ended(error)
        raise
    if flow_run.collected is not None:
        body_ended(flow_run.collected)


def log_last_lines(path: Path) -> None:
    """Copy the end of a replica's log into the flow run's log."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    get_run_logger().error("the last lines of %s:\n%s", path, visible("\n".join(lines[-LOG_LINES:])))


class RunningFlow:
    """The flow run of this process."""

    def __init__(self, flow_run_id: UUID | None) -> None:
        self._flow_run_id = flow_run_id
        self.is_running = False
        self.collected: Collected | None = None

    def report_crashed(self, timeout: float) -> None:
        """Tell the server that the flow run is over; give up after ``timeout`` seconds. Any thread may call it."""
        if self._flow_run_id is None:
            return
        # in a thread, because the server may not answer
        thread = threading.Thread(target=_set_crashed, args=(self._flow_run_id,), daemon=True)
        thread.start()
        thread.join(timeout)


def _set_crashed(flow_run_id: UUID) -> None:
    with contextlib.suppress(Exception), get_client(sync_client=True) as client:
        state = client.read_flow_run(flow_run_id).state
        if state is not None and not state.is_cancelling() and not state.is_final():
            message = "A signal ended the process. The same run again goes on where this one stopped."
            client.set_flow_run_state(flow_run_id, Crashed(message=message), force=True)


def _disable_retries() -> None:
    """Make Prefect accept this flow run's failure as final, whatever its ``retries``."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or not context.flow_run.empirical_policy.retries:
        return
    policy = context.flow_run.empirical_policy.model_copy(update={"retries": 0})
    try:
        with get_client(sync_client=True) as client:
            client.update_flow_run(context.flow_run.id, empirical_policy=policy)
    except Exception as error:
        logger.debug("could not disable the retries: %s", error)
