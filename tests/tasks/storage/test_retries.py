"""Requests are repeated after transient failures only, and stop ends the wait."""

import logging
import threading

import pytest

from tasks.storage.filesystems import TransferSettings
from tasks.storage.retries import with_retries
from tasks.storage.transfer_errors import TransferStoppedError

QUICK = TransferSettings(attempts=3, base_delay_s=0.001)


def test_a_transient_failure_is_tried_again_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    failures = [ConnectionResetError("reset with hunter2hunter2"), TimeoutError("slow")]

    def call() -> str:
        if failures:
            raise failures.pop(0)
        return "done"

    with caplog.at_level(logging.WARNING):
        result = with_retries(call, what="x", transfer=QUICK, stop=threading.Event(), secrets=("hunter2hunter2",))
    assert result == "done"
    assert "x failed (attempt 1 of 3), again in 0.0 s: ConnectionResetError: reset with ***" in caplog.text
    assert "attempt 2 of 3" in caplog.text


def test_the_last_failure_propagates_unchanged() -> None:
    errors = [ConnectionResetError(str(number)) for number in range(3)]
    remaining = iter(errors)

    def fail() -> None:
        raise next(remaining)

    with pytest.raises(ConnectionResetError) as caught:
        with_retries(fail, what="x", transfer=QUICK, stop=threading.Event())
    assert caught.value is errors[-1]


def test_stop_ends_the_wait() -> None:
    stop = threading.Event()

    def fail() -> None:
        threading.Timer(0.05, stop.set).start()
        raise ConnectionResetError("reset")

    patient = TransferSettings(attempts=2, base_delay_s=1e6, max_delay_s=1e6)
    with pytest.raises(TransferStoppedError, match="x was stopped"):
        with_retries(fail, what="x", transfer=patient, stop=stop)


def test_a_failure_that_is_not_transient_is_not_tried_again() -> None:
    calls = []

    def fail() -> None:
        calls.append(1)
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        with_retries(fail, what="x", transfer=TransferSettings(), stop=threading.Event())
    assert len(calls) == 1
