"""How a task that needs a store outlasts an outage of it."""

import math
import os
from typing import Any

from prefect import runtime

from tasks.errors import ConfigError
from tasks.storage.filesystems import TransferSettings
from tasks.storage.transfer_scope import wait_in_scope

OUTAGE_VARIABLE = "HARVEST_OUTAGE_SECONDS"
"""Environment variable: about how long a task tries, in all, when its store does not answer."""
DEFAULT_SECONDS = 240.0
DELAYS_SECONDS = (5.0, 15.0, 45.0, 120.0)
"""Before each retry of a task, by default; within every attempt the transfer itself tries for some seconds more."""


def wait_before_retry() -> None:
    """In a task: wait if this is a retry. Raises TransferStoppedError when the flow is ended meanwhile.

    Prefect's own delay is a sleep in the task's thread: a flow that is cancelled would wait for its end.
    """
    retry = (runtime.task_run.run_count or 1) - 1
    if retry > 0:
        wait_in_scope(DELAYS_SECONDS[min(retry, len(DELAYS_SECONDS)) - 1] * _scale())


def transfer_delays() -> dict[str, Any]:
    """Delays for TransferSettings, scaled like those between the tries of a task."""
    return {
        "base_delay_s": TransferSettings.base_delay_s * _scale(),
        "max_delay_s": TransferSettings.max_delay_s * _scale(),
    }


def outage_seconds() -> float:
    """What ``HARVEST_OUTAGE_SECONDS`` says. Raises ConfigError when it is no positive number."""
    text = os.environ.get(OUTAGE_VARIABLE) or str(DEFAULT_SECONDS)
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ConfigError(f"{OUTAGE_VARIABLE} is {text!r}; it must be a number of seconds above 0, such as 240")
    return seconds


def _scale() -> float:
    return outage_seconds() / DEFAULT_SECONDS
