"""Which callback runs when a task run has ended, and which failures end the flow."""

from collections.abc import Callable
from typing import Any

import pytest

from flows.shards.pending_tasks import PendingTasks
from tasks.errors import ConfigError, HarvestError, UploadError


class Future:
    """A future that has ended already when it is added."""

    def __init__(self, result: Any) -> None:
        self._result = result

    def add_done_callback(self, call: Callable[[Any], None]) -> None:
        call(self)

    def result(self) -> Any:
        if isinstance(self._result, Exception):
            raise self._result
        return self._result


OUTAGE = UploadError("no answer", retryable=True)


@pytest.mark.parametrize(
    ("result", "has_callback", "raised"),
    [
        ("done", True, False),
        (OUTAGE, True, False),
        (OUTAGE, False, True),
        (UploadError("access denied"), True, True),
        (ConfigError("no such bucket"), True, True),
        (OSError("a bug"), True, True),
    ],
)
def test_only_a_retryable_error_with_a_callback_does_not_end_the_flow(
    result: Any, has_callback: bool, raised: bool
) -> None:
    followed: list[Any] = []
    retryable: list[HarvestError] = []
    pending = PendingTasks(lambda: None)
    pending.add(Future(result), followed.append, on_retryable_error=retryable.append if has_callback else None)  # type: ignore[arg-type]
    if raised:
        with pytest.raises(type(result)):
            pending.run_callbacks()
        assert (followed, retryable) == ([], [])
        return
    pending.run_callbacks()
    assert (followed, retryable) == (([], [OUTAGE]) if result is OUTAGE else (["done"], []))
    assert len(pending) == 0
