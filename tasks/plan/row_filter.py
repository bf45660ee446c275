"""Filter the rows of a dataset by conditions ``COLUMN OPERATOR VALUE``, which are never evaluated as code.

Operators: ``=`` ``!=`` ``<`` ``<=`` ``>`` ``>=``, and ``~`` ``!~`` for a regular expression that may match anywhere.
Numbers compare as numbers. A list passes if one of its elements does. A missing cell passes only ``!=`` and ``!~``.
"""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.errors import ConfigError

_FORM = re.compile(r"^\s*(?P<column>[^=!<>~]+?)\s*(?P<operator>!=|!~|<=|>=|==|=|<|>|~)\s*(?P<value>.*?)\s*$", re.DOTALL)
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
            return re.search(self.value, _text(cell)) is not None
        left, right = _number(cell), _number(self.value)
        if name in _ORDER:
            if left is None or right is None:
                raise ConfigError(
                    f"filter {self.text!r} compares {_text(cell)[:80]!r} with {self.value!r}; {name} needs two "
                    "numbers. Use = or ~ for text"
                )
            return _ORDER[name](left, right)
        if left is not None and right is not None:
            return left == right
        return _text(cell) == self.value


def parse_filters(texts: Sequence[str]) -> list[RowFilter]:
    """Return the filters in ``texts``. Raises ConfigError for a wrong form or a bad regular expression."""
    return [_parse(text) for text in texts]


def _parse(text: str) -> RowFilter:
    match = _FORM.match(text)
    if match is None:
        raise ConfigError(
            f"filter {text!r} is not COLUMN OPERATOR VALUE, with an operator of = != < <= > >= ~ !~, such as "
            "'level=5' or 'subject~^(algebra|geometry)$'"
        )
    found = RowFilter(
        text=text, column=match["column"], operator=match["operator"].replace("==", "="), value=match["value"]
    )
    if "~" in found.operator:
        try:
            re.compile(found.value)
        except re.error as error:
            raise ConfigError(f"filter {text!r}: {found.value!r} is not a regular expression: {error}") from None
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
