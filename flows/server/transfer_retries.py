"""Decides how long a task retries while its remote storage does not answer, and the delays between attempts."""

import math
import os
from typing import Any

from prefect import runtime

from tasks.errors import ConfigError
from tasks.storage.filesystems import TransferSettings
from tasks.storage.transfer_scope import wait_in_scope

OUTAGE_VARIABLE = "HARVEST_OUTAGE_SECONDS"
"""Environment variable: for about how many seconds a task tries in all when the storage does not answer."""
DEFAULT_SECONDS = 240.0
DELAYS_SECONDS = (5.0, 15.0, 45.0, 120.0)
"""The default delay before each retry of a task. Within each attempt the transfer itself retries for some seconds."""


def wait_before_retry() -> None:
    """Wait, if the current task run is a retry. Raises TransferStoppedError when the flow ends meanwhile.

    Prefect's own retry delay sleeps in the task's thread, so a cancelled flow would have to wait for its end.
    """
    retry = (runtime.task_run.run_count or 1) - 1
    if retry > 0:
        wait_in_scope(DELAYS_SECONDS[min(retry, len(DELAYS_SECONDS)) - 1] * _scale())


def transfer_delays() -> dict[str, Any]:
    """Return delays for TransferSettings, in the same proportion to their defaults as the delays of the tasks."""
    return {
        "base_delay_s": TransferSettings.base_delay_s * _scale(),
        "max_delay_s": TransferSettings.max_delay_s * _scale(),
    }


def outage_seconds() -> float:
    """Return the value of ``HARVEST_OUTAGE_SECONDS`` or its default. Raises ConfigError if it is no positive number."""
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
