"""Knows the units that are multiples of each other: minutes and hours, cents and dollars, inches and feet."""

from fractions import Fraction
from typing import NamedTuple


class Unit(NamedTuple):
    """A unit of measurement."""

    kind: str
    """What it measures; units of one kind convert into each other."""
    size: int
    """Its size in the smallest unit of its kind."""


_NAMES = {
    "time": {
        "second": 1,
        "sec": 1,
        "minute": 60,
        "min": 60,
        "hour": 3_600,
        "hr": 3_600,
        "day": 86_400,
        "week": 604_800,
    },
    "months": {"month": 1, "year": 12},
    "money": {"cent": 1, "¢": 1, "dollar": 100, "$": 100},
    "metric length": {"mm": 1, "millimeter": 1, "cm": 10, "centimeter": 10, "m": 1_000, "meter": 1_000}
    | {"km": 1_000_000, "kilometer": 1_000_000},
    "length": {"inch": 1, "inche": 1, "foot": 12, "feet": 12, "ft": 12, "yard": 36, "mile": 63_360},
    "mass": {"mg": 1, "gram": 1_000, "g": 1_000, "kg": 1_000_000, "kilogram": 1_000_000},
    "weight": {"ounce": 1, "oz": 1, "pound": 16, "lb": 16},
    "metric volume": {"ml": 1, "milliliter": 1, "liter": 1_000, "litre": 1_000},
    "volume": {"cup": 1, "pint": 2, "quart": 4, "gallon": 16},
}
_UNITS = {name: Unit(kind, size) for kind, names in _NAMES.items() for name, size in names.items()}


def unit_named(name: str) -> Unit | None:
    """The unit with this singular or plural name; None for words that are no such unit."""
    name = name.lower()
    return _UNITS.get(name) or _UNITS.get(name.removesuffix("s"))


def is_same_amount(number: Fraction, unit: str, other_number: Fraction, other_unit: str) -> bool:
    """Whether the two amounts are equal, in units that convert into each other: 60 minutes and 1 hour."""
    one, other = unit_named(unit), unit_named(other_unit)
    if one is None or other is None or one.kind != other.kind:
        return False
    return number * one.size == other_number * other.size
