"""What follows a task run that has ended, and which failures a flow goes on after."""

from collections.abc import Callable
from typing import Any

import pytest

from flows.shards.pending_tasks import PendingTasks
from tasks.errors import ConfigError, HarvestError, UploadError


class Future:
    """A future that has ended when it is watched."""

    def __init__(self, result: Any) -> None:
        self._result = result

    def add_done_callback(self, call: Callable[[Any], None]) -> None:
        call(self)

    def result(self) -> Any:
        if isinstance(self._result, Exception):
            raise self._result
        return self._result


AWAY = UploadError("no answer", retryable=True)


@pytest.mark.parametrize(
    ("result", "may_pass", "raised"),
    [
        ("done", True, False),
        (AWAY, True, False),
        (AWAY, False, True),
        (UploadError("access denied"), True, True),
        (ConfigError("no such bucket"), True, True),
        (OSError("a bug"), True, True),
    ],
)
def test_only_an_outage_may_pass(result: Any, may_pass: bool, raised: bool) -> None:
    followed: list[Any] = []
    passed: list[HarvestError] = []
    pending = PendingTasks(lambda: None)
    pending.add(Future(result), followed.append, on_retryable_error=passed.append if may_pass else None)  # type: ignore[arg-type]
    if raised:
        with pytest.raises(type(result)):
            pending.run_callbacks()
        assert (followed, passed) == ([], [])
        return
    pending.run_callbacks()
    assert (followed, passed) == (([], [AWAY]) if result is AWAY else (["done"], []))
    assert len(pending) == 0
