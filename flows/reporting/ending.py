"""How a flow run ends other than well: in the right state, with the reason where it is looked for."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.exceptions import TerminationSignal
from prefect.logging import get_run_logger
from prefect.states import Crashed

from flows.reporting.reporter import retry_no_more
from tasks.errors import ConfigError, NotEquivalent, OutOfMemory
from tasks.storage.transfer_scope import TransferScope

LOG_TAIL_LINES = 40
STATE_SECONDS = 20.0
"""How long a flow that is being ended waits for the server to take its state; its worker tells it otherwise."""

_FINAL = (ConfigError, NotEquivalent, OutOfMemory)
"""What a retry of the flow cannot cure."""

_under_way: UUID | None = None
"""The flow run of this process."""
_goes_on = False


@contextlib.contextmanager
def failures_explained() -> Iterator[None]:
    """Log the engine's last words with its failure, spend no retry where it is in vain, and leave no run Running.

    A flow that is ended by a signal or an interrupt waits for its tasks' threads: their transfers are stopped.
    """
    global _under_way, _goes_on
    context = FlowRunContext.get()
    _under_way = context.flow_run.id if context is not None and context.flow_run is not None else None
    try:
        with TransferScope():
            _goes_on = True
            try:
                yield
            finally:
                _goes_on = False
    except TerminationSignal:
        # Prefect restores the default handler next, which ends the process before it has told the server
        say_crashed(STATE_SECONDS)
        raise
    except Exception as error:
        if (log_path := getattr(error, "log_path", None)) is not None:
            log_tail(log_path)
        if isinstance(error, _FINAL):
            retry_no_more()
        raise


def log_tail(path: Path) -> None:
    """Put the end of a replica's log into the flow run's."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    get_run_logger().error("the last lines of %s:\n%s", path, "\n".join(lines[-LOG_TAIL_LINES:]))


def goes_on() -> bool:
    """Whether a flow is under way in this process: also while it leaves what it has opened."""
    return _goes_on


def say_crashed(seconds: float) -> None:
    """Tell the server, within so many seconds, that the flow run under way is over; from any thread."""
    if _under_way is None:
        return
    # the server may be what is going away
    thread = threading.Thread(target=_set_crashed, args=(_under_way,), daemon=True)
    thread.start()
    thread.join(seconds)


def _set_crashed(flow_run_id: UUID) -> None:
    with contextlib.suppress(Exception), get_client(sync_client=True) as client:
        state = client.read_flow_run(flow_run_id).state
        if state is not None and not state.is_cancelling() and not state.is_final():
            message = "The process was ended by a signal. The same run again goes on where this one stopped."
            client.set_flow_run_state(flow_run_id, Crashed(message=message), force=True)
