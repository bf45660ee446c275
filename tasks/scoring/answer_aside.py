"""Reads the parenthesis after a number: it says the number again, explains it, or makes it ambiguous.

A parenthesis with numbers explains only when its arithmetic gives the number before it: "24 cookies (2 trays of 12)",
"18 boxes (9 * 2 = 18)", "60 minutes (1 hour)". Other numbers may be another answer ("18 eggs (correction: 20)") or the
rest of a quantity ("5 feet (8 inches)"). A parenthesis of words explains unless it corrects.
"""

import re
from fractions import Fraction

from tasks.scoring.number_text import (
    NUMBER_WORD,
    SCALE_WORD,
    canonical_number,
    end_of_number_words,
    match_number,
    with_digits,
)
from tasks.scoring.units import is_same_amount

_SAID_AGAIN = re.compile(r" ?\(([0-9][0-9,.]*)((?: [^()0-9]*)?)\)[.]?")
_SPELLED_AGAIN = re.compile(r"([^()]*)\(([^()]*)\)[.]?")
_ASIDE = re.compile(r"([^()]*)\(([^()]*)\)([^()]*)")
_CORRECTS = re.compile(
    rf"[^\w=]|(?:in|x|times|and|plus|minus|less|fewer|more|to|up|over|under|about|around|between|at (?:least|most))\b"
    rf"|.*\b(?:or|either|versus|vs|not|more|another|extra|additional|fewer|less|left|sorry|correct(?:ion|ed)?|oops|wait"
    rf"|actually|rather|instead|should|meant|recheck|mistake|{SCALE_WORD})\b",
    re.IGNORECASE,
)
_NUMBER = r"[0-9][0-9,]*(?:\.[0-9]+)?%?"
_OPERATOR = re.compile(r" *(?:([+×÷*/-])|(plus|minus|times|of|x)(?![A-Za-z])) *", re.IGNORECASE)
_OPERAND = re.compile(
    rf"({_NUMBER})((?!x ?[0-9])[A-Za-z'’]*(?:[ ,;:]+(?!(?:plus|minus|times|of|x)\b)[A-Za-z'’]+)*[.,;:]?)", re.IGNORECASE
)
_LEADING_WORDS = re.compile(r"(?:[A-Za-z'’]+[,:;]? )*(?=[0-9])")
_NUMBER_WORD = re.compile(rf"\b(?:{NUMBER_WORD})\b", re.IGNORECASE)
_AMOUNT = re.compile(rf"({_NUMBER}) ?([A-Za-z]+)\.?")
_WORD = re.compile(r"[A-Za-z]{2}")
_MAX_CHARS = 200
"""A longer parenthesis is not computed."""
_SIGNS = {"plus": "+", "minus": "-", "times": "×", "of": "×", "x": "×", "*": "×", "": "×", "/": "÷"}


def without_aside(rest: str, canonical: str, *, has_currency: bool) -> str | None:
    """``rest``, the text after the number ``canonical``, without a parenthesis that repeats or explains it.

    None when the parenthesis makes the number ambiguous.
    """
    again = _SAID_AGAIN.fullmatch(rest)
    if again and canonical_number(again[1]) == canonical:
        return again[2]
    spelled = _SPELLED_AGAIN.fullmatch(rest)
    end = end_of_number_words(spelled[2], canonical) if spelled else None
    if spelled is not None and end is not None:
        return spelled[1] + spelled[2][end:]
    aside = _ASIDE.fullmatch(rest)
    if aside is None:
        return rest
    if len(aside[2]) > _MAX_CHARS:
        return rest  # it keeps its numbers, which then are others
    inside = with_digits(aside[2].strip())
    if _CORRECTS.match(inside):
        return None
    if not any(character.isdecimal() for character in inside) and "=" not in inside:
        return rest
    unit = aside[1].strip()
    # "18 (9 * 2)" may be a factor
    is_bare = not unit and not has_currency and "=" not in inside and _WORD.search(inside) is None
    return aside[1] + aside[3] if not is_bare and _confirms(inside, canonical, unit) else None


def _confirms(inside: str, canonical: str, unit: str) -> bool:
    """Whether each side of the equation in ``inside``, or its one amount in another unit, is the number."""
    number = Fraction(canonical)
    if (amount := _AMOUNT.fullmatch(inside)) and (other := _operand(amount[1])) is not None:
        return other == number or is_same_amount(number, unit, other, amount[2])
    sides = [side.strip() for side in inside.split("=")]
    values = [_value(side) for side in sides if any(character.isdecimal() for character in side)]
    return bool(sides[-1]) and bool(values) and all(value == number for value in values)


def _value(side: str) -> Fraction | None:
    """The value of numbers with words and operators between them; None when they are no arithmetic."""
    start = _LEADING_WORDS.match(side)
    position = start.end() if start else 0
    total, term, sign = Fraction(0), None, "+"
    while operand := _OPERAND.match(side, position):
        value = _operand(operand[1])
        if value is None or _NUMBER_WORD.search(operand[2]):
            return None
        if sign in "+-":
            total, term = total + (term or 0), -value if sign == "-" else value
        elif term is None or (sign == "÷" and not value):
            return None
        else:
            term = term * value if sign == "×" else term / value
        position = operand.end()
        if position == len(side):
            return total + (term or 0)
        operator = _OPERATOR.match(side, position)
        # marks of multiplication are gone where they are marks of emphasis too: "9 * 2" is "9 2" here
        if operator is None and (operand[2] or side[position] != " "):
            return None
        name = (operator[1] or operator[2]).lower() if operator else ""
        sign = _SIGNS.get(name, name)
        position = operator.end() if operator else position + 1
    return None


def _operand(text: str) -> Fraction | None:
    number = match_number(text.removesuffix("%"))
    if number is None or number.end != len(text.removesuffix("%")):
        return None
    return Fraction(number.canonical) / (100 if text.endswith("%") else 1)
