"""How a task that needs a store outlasts an outage of it."""

from prefect import runtime

from tasks.transfer_scope import wait_in_scope

DELAYS_SECONDS = (5.0, 15.0, 45.0, 120.0)
"""Before each retry of a task; within every attempt the transfer itself tries for about a minute."""


def wait_before_retry() -> None:
    """In a task: wait if this is a retry. Raises TransferStoppedError when the flow is ended meanwhile.

    Prefect's own delay is a sleep in the task's thread: a flow that is cancelled would wait for its end.
    """
    retry = (runtime.task_run.run_count or 1) - 1
    if retry > 0:
        wait_in_scope(DELAYS_SECONDS[min(retry, len(DELAYS_SECONDS)) - 1])
