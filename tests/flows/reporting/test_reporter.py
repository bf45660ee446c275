"""How the thread that reports to Prefect deals with a server that is slow."""

from itertools import islice

import pytest

from flows.reporting.reporter import literal_row, request_limits
from tasks.time_limits import FACTOR_VARIABLE


def test_each_repetition_of_a_request_may_take_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FACTOR_VARIABLE, "2")
    assert list(islice(request_limits(), 5)) == [30, 60, 120, 120, 120]


def test_the_cells_of_a_table_are_no_markup() -> None:
    row = {"arm": "[a](https://evil.example)\x1b[31m", "tokens": 3, "mean": None}
    assert literal_row(row) == {"arm": r"\[a\](https\://evil.example)␛\[31m", "tokens": 3, "mean": None}
