"""Filters choose rows, and nothing in them is run as code."""

from typing import Any

import pytest

from tasks.errors import ConfigError
from tasks.plan.row_filter import parse_filters
from tasks.time_limits import FACTOR_VARIABLE

ROW: dict[str, Any] = {
    "level": 5,
    "score": "3.50",
    "subject": "algebra",
    "solved": True,
    "tags": ["hard", "geometry"],
    "note": None,
    "a b": "x = y",
}


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("level=5", True),
        ("level == 5.0", True),
        ("level!=5", False),
        ("level>4", True),
        ("level >= 5.5", False),
        ("score<10", True),
        ("score=3.5", True),
        ("subject=algebra", True),
        ("subject~^alg", True),
        ("subject!~geo", True),
        ("subject~(?i)ALGEBRA", True),
        ("solved=true", True),
        ("solved=1", False),
        ("tags=geometry", True),
        ("tags!=geometry", False),
        ("tags~^h", True),
        ("note=None", False),
        ("note!=x", True),
        ("note!~x", True),
        ("a b=x = y", True),
        ("subject=__import__('os').system('false')", False),
        ("subject=", False),
    ],
)
def test_a_filter_passes_or_refuses_a_row(text: str, passes: bool) -> None:
    (found,) = parse_filters([text])
    assert found.passes(ROW) is passes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("level", "is not COLUMN OPERATOR VALUE"),
        ("=5", "is not COLUMN OPERATOR VALUE"),
        ("", "is not COLUMN OPERATOR VALUE"),
        ("subject~(", "is not a regular expression"),
        (" " * 100_000, "is not COLUMN OPERATOR VALUE"),
        ("subject~(?:(?:(?:a{999}){999}){999}){999}", "repeats more than 100,000 times, all repetitions multiplied"),
    ],
)
def test_bad_filters_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_filters([text])


def test_a_search_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FACTOR_VARIABLE, "0.01")
    (found,) = parse_filters([r"subject~^(\w|\w\w)+$"])
    with pytest.raises(ConfigError, match=r"was still searching 'a+.*repetition inside a repetition"):
        found.passes({"subject": "a" * 99 + "!"})


@pytest.mark.parametrize("text", ["subject<3", "level>high"])
def test_order_needs_numbers(text: str) -> None:
    (found,) = parse_filters([text])
    with pytest.raises(ConfigError, match="needs two numbers"):
        found.passes(ROW)
