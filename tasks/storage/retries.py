"""Repeats a request to a destination after failures that can pass."""

import logging
import random
import threading
from collections.abc import Callable
from typing import TypeVar

from tasks.storage.filesystems import TransferSettings
from tasks.storage.transfer_errors import TransferStoppedError, error_text, is_transient, redact

logger = logging.getLogger(__name__)
Result = TypeVar("Result")


def with_retries(
    call: Callable[[], Result],
    *,
    what: str,
    transfer: TransferSettings,
    stop: threading.Event,
    secrets: tuple[str, ...] = (),
) -> Result:
    """Return the result of ``call``, which is repeated after transient failures. The last failure is raised unchanged.

    ``what`` names the request in the log. Between calls it waits a random time below a bound that doubles ("full
    jitter", Brooker 2015, AWS Architecture Blog). ``stop`` ends the wait; then it raises TransferStoppedError.
    """
    for attempt in range(1, transfer.attempts + 1):
        if stop.is_set():
            raise TransferStoppedError(f"{what} was stopped")
        try:
            return call()
        except Exception as error:
            if attempt == transfer.attempts or stop.is_set() or not is_transient(error):
                raise
            delay = random.uniform(0, min(transfer.max_delay_s, transfer.base_delay_s * 2 ** (attempt - 1)))
            reason = redact(error_text(error), *secrets)
            logger.warning(
                "%s failed (attempt %d of %d), again in %.1f s: %s", what, attempt, transfer.attempts, delay, reason
            )
            stop.wait(delay)
    raise AssertionError("unreachable: the last attempt returns or raises")
