"""What follows a task run that has ended, and which failures a flow goes on after."""

from collections.abc import Callable
from typing import Any

import pytest

from flows.shards.in_flight import InFlight
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
    in_flight = InFlight(lambda: None)
    in_flight.watch(Future(result), followed.append, let_pass=passed.append if may_pass else None)  # type: ignore[arg-type]
    if raised:
        with pytest.raises(type(result)):
            in_flight.settle()
        assert (followed, passed) == ([], [])
        return
    in_flight.settle()
    assert (followed, passed) == (([], [AWAY]) if result is AWAY else (["done"], []))
    assert len(in_flight) == 0
