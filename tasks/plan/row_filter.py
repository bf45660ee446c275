"""Filter the rows of a dataset by conditions ``COLUMN OPERATOR VALUE``, which are never evaluated as code.

Operators: ``=`` ``!=`` ``<`` ``<=`` ``>`` ``>=``, and ``~`` ``!~`` for a regular expression that may match anywhere.
Numbers compare as numbers. A list passes if one of its elements does. A missing cell passes only ``!=`` and ``!~``.
"""

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import regex

from tasks.errors import ConfigError
from tasks.plain_text import quoted, shortened
from tasks.time_limits import time_limit

_SEARCH_SECONDS = 10.0
"""For one cell: an expression such as (a+)+$ takes for ever on a text that it does not match."""
_REPETITION = re.compile(r"\{(?:\d*,)?(\d+)")
_MOST_REPETITIONS = 100_000
"""A repetition inside another one multiplies what the expression takes to compile."""
_OPERATOR = re.compile("!=|!~|<=|>=|==|=|<|>|~")
_ORDER: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True, kw_only=True)
class RowFilter:
    """One condition. ``text`` is what the user wrote."""

    text: str
    column: str
    operator: str
    value: str

    def passes(self, row: Mapping[str, Any]) -> bool:
        """Return whether ``row`` passes. Raises ConfigError if ``<`` or ``>`` compares anything but numbers."""
        cell = row.get(self.column)
        cells = cell if isinstance(cell, list | tuple) else [] if cell is None else [cell]
        if self.operator.startswith("!"):
            return not any(self._holds(item, self.operator.replace("!", "", 1)) for item in cells)
        return any(self._holds(item, self.operator) for item in cells)

    def _holds(self, cell: Any, name: str) -> bool:
        if name == "~":
            return self._found_in(_text(cell))
        left, right = _number(cell), _number(self.value)
        if name in _ORDER:
            if left is None or right is None:
                raise ConfigError(
                    f"filter {quoted(self.text)} compares {_text(cell)[:80]!r} with {quoted(self.value)}; {name} "
                    "needs two numbers. Use = or ~ for text"
                )
            return _ORDER[name](left, right)
        if left is not None and right is not None:
            return left == right
        return _text(cell) == self.value

    def _found_in(self, text: str) -> bool:
        try:
            return regex.search(self.value, text, timeout=time_limit(_SEARCH_SECONDS)) is not None
        except TimeoutError:
            raise ConfigError(
                f"filter {quoted(self.text)} was still searching {shortened(text, 80)!r} after {_SEARCH_SECONDS:g} s. "
                "Use an expression without a repetition inside a repetition"
            ) from None


def parse_filters(texts: Sequence[str]) -> list[RowFilter]:
    """Return the filters in ``texts``. Raises ConfigError for a wrong form or a bad regular expression."""
    return [_parse(text) for text in texts]


def _parse(text: str) -> RowFilter:
    match = _OPERATOR.search(text)
    column = text[: match.start()].strip() if match else ""
    if match is None or not column:
        raise ConfigError(
            f"filter {quoted(text)} is not COLUMN OPERATOR VALUE, with an operator of = != < <= > >= ~ !~, such as "
            "'level=5' or 'subject~^(algebra|geometry)$'"
        )
    found = RowFilter(text=text, column=column, operator=match[0].replace("==", "="), value=text[match.end() :].strip())
    if "~" in found.operator:
        if math.prod(max(1, int(most)) for most in _REPETITION.findall(found.value)) > _MOST_REPETITIONS:
            raise ConfigError(
                f"filter {quoted(shortened(text, 80))} repeats more than {_MOST_REPETITIONS:,} times, all repetitions "
                "multiplied. Use smaller numbers in braces, or * and +"
            )
        try:
            regex.compile(found.value)
        except (regex.error, RecursionError) as error:
            raise ConfigError(
                f"filter {quoted(text)}: {quoted(found.value)} is not a regular expression: {error}"
            ) from None
    return found


def _text(cell: Any) -> str:
    return str(cell).lower() if isinstance(cell, bool) else str(cell)


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
