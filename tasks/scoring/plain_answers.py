"""Decides the answers that need no Math-Verify, or that it would misread: numbers, words, choices, ambiguous forms.

Math-Verify reads words as products of letters ("listen" equals "silent"), and takes one number out of several
("18 [1]", "1 000") or one side of an equation that is not solved ("2x = 10").
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from tasks.scoring.answer_markup import plain_value, unwrapped
from tasks.scoring.answer_value import is_unsolved, read_value
from tasks.scoring.number_text import NUMBER_WORD, canonical_number
from tasks.scoring.units import Unit, unit_named

Decision = Literal["right", "wrong", "ambiguous"]

FUNCTION = "arc[a-z]+|(?:sin|cos|tan|cot|sec|csc)h?|log|exp|sqrt|max|gcd|lcm|mod|det|lim|inf|sup|arg"
GREEK = "alpha|beta|gamma|delta|epsilon|theta|lambda|sigma|omega|phi|psi|rho|tau"
_UNIT = "km|cm|mm|kg|mg|ml|ft|lbs?|oz|mi|hrs?|mins?|secs?|mph|kph|[ap]m|[ap]\\.m\\."
_PER = "(?:second|minute|hour|day|week|month|year|person|child|student|item|piece|box|unit|mile|pound|gallon|each)s?"
_ALGEBRA = re.compile(
    rf"(?<=[0-9])(?!(?i:{_UNIT}|st|nd|rd|th|e[+-]?[0-9]+)(?![A-Za-z]))[A-Za-z]"  # 3abc, and not 18th
    rf"|(?<=[0-9]) ?/ ?(?!(?i:{_UNIT}|{_PER}|[hs])(?![A-Za-z]))[A-Za-z]"  # 3/abc, and not 18/hour
    r"|(?<=[0-9])-(?!(?:year|day|week|month|hour|minute|foot|mile|inch)s?\b)[A-Za-z]"
    rf"|\b(?:{FUNCTION}|{GREEK})\b"
    r"|(?<![A-Za-z0-9'’°/.])(?![amgshlIA]\b)[A-Za-z](?![A-Za-z.'’])"  # 18 x, and not 18 m
    r"|[\u0370-\u03ff\\]"
)
_LABEL = re.compile(r"^[^0-9:]{0,80}:")
_ASIDE = re.compile(r"(?<=[\w %])\((?!\w\))[^()]*\)")
_TEXT_COMMAND = re.compile(r"\\(?:text[a-z]{0,2}|math(?:rm|bf|it|sf|tt)|mbox) ?\{([^{}]*)\}|\\[ ,;:!]|~")
_LETTERS = re.compile(r"[^\W\d_](?:[^\W\d_]|[ '’.-])*")
_CHOICE = re.compile(
    r"(?:(?:the )?(?:(?:correct|final) )?(?:option|choice|answer)(?: is)?:? )?\(?([A-Za-z])\)?(?: ?[.):]+(?: (.*))?)?",
    re.IGNORECASE,
)
_OTHER_CHOICE = re.compile(r"\b[A-Z]\b|\b(?:or|not|and|wrong|incorrect)\b")
_BASE = re.compile(r"(?<![\^\w{\\])[0-9][0-9A-F]*_")
_SUBSCRIPT = re.compile(r"_(?:\{[^{}]*\}|\w)")
_CALLED = re.compile(r"\b[A-WZa-wz]\([^()]*\)")
_RATIO = re.compile(r"[0-9] ?: ?[0-9]")
_LEADING_COMPARISON = re.compile(r"\\?[<>≤≥≠]|\\(?:leq?|geq?|lt|gt|neq?)(?![A-Za-z])|!=")
_HUGE_FACTORIAL = re.compile(r"[0-9]{5}[)} ]*!|[\^e][0-9^{}() ]{1,20}!|![)} ]*!")
_APART = r"[ .,;:!?]+"
_SEVERAL_NUMBERS = re.compile(
    r"[0-9] +[0-9]"
    r"|[0-9] *[(\[] *[0-9.,]+ *[)\]]"
    r"|[0-9][A-Za-z ]*\((?=[^()]*[0-9])[^()]*(?:=|[A-Za-z]{3})[^()]*\)"
    r"|[0-9][A-Za-z ]*(?:[-=]>|[→⇒⟹⟶]|\\(?:to|rightarrow|Rightarrow|implies)(?![A-Za-z]))[^0-9]*[0-9]"
    rf"|[0-9]{_APART}(?=[A-Za-z ,;:.!?]*(?:[A-Za-z]{{3}}|\b(?:h|m|hr|ft|lb|kg)\b))(?:[A-Za-z]+{_APART})+[0-9]"
)
_OTHER_WORD = re.compile(rf"\b(?:not|never|wrong|incorrect|isn|doesn|wasn|one|{NUMBER_WORD})\b|n['’]t\b", re.IGNORECASE)
_UNIT_AFTER = re.compile(r"[0-9][0-9.,]* ?([A-Za-z]+|¢)")


@dataclass(frozen=True, kw_only=True)
class PlainGold:
    """A ground truth as it is compared without Math-Verify."""

    text: str
    number: str | None
    """Canonical decimal text when it is one number."""
    words: str | None
    """Its words in lower case when it consists of letters."""
    unit: Unit | None


@lru_cache(maxsize=4096)
def plain_gold(ground_truth: str, text: str) -> PlainGold:
    """The ground truth whose expression is ``text``; only ``ground_truth`` itself has its unit."""
    return PlainGold(
        text=text, number=canonical_number(text), words=_words(text), unit=_unit(ground_truth.rsplit("####", 1)[-1])
    )


def decided(raw: str, candidate: str, gold: PlainGold) -> Decision | None:
    """What the marked text ``raw`` is beside ``gold``; None leaves its expression ``candidate`` to Math-Verify."""
    if gold.unit is not None and _unit(raw) not in (None, gold.unit):
        return "ambiguous"
    if candidate == gold.text:
        return "right"
    if gold.number is not None:
        number = plain_number(raw)
        if number == gold.number:
            return "right"
        if number is not None and "%" not in raw:
            return "wrong"
    if len(gold.text) == 1 and gold.words is not None and (choice := _CHOICE.fullmatch(unwrapped(raw))):
        if choice[2] and _OTHER_CHOICE.search(choice[2]):
            return "ambiguous"
        return "right" if choice[1].lower() == gold.words else "wrong"
    words = _words(candidate)
    if gold.words is not None and (words is not None or len(gold.words) > 2):
        return "right" if words == gold.words else "wrong"
    return "ambiguous" if _is_part(candidate, gold.text) else None


@lru_cache(maxsize=4096)
def plain_number(raw: str) -> str | None:
    """The number in ``raw`` with prose, units or markup around it; None for none, and for algebra such as "3abc"."""
    number = read_value(raw, "boxed").canonical
    if number is None:
        return None
    text = _ASIDE.sub("", plain_value(raw).text).rpartition("=")[2]  # the number's reader has read the aside
    return None if _ALGEBRA.search(_LABEL.sub("", text)) else number


def states_one_thing(text: str) -> bool:
    """Whether ``text`` has no numbers side by side, takes none back, and is no factorial of a huge number."""
    spaced = " ".join(_TEXT_COMMAND.sub(r" \1 ", text).split())
    has_digit = any(character.isdecimal() for character in text)
    return not (
        has_digit and (_SEVERAL_NUMBERS.search(spaced) or _OTHER_WORD.search(spaced) or _HUGE_FACTORIAL.search(spaced))
    )


def _is_part(candidate: str, gold: str) -> bool:
    """Whether Math-Verify would take a part of ``candidate``: a side of an equation or a ratio, or digits of a base."""
    if _BASE.search(candidate):
        return not _BASE.search(gold) or candidate.replace(" ", "") != gold.replace(" ", "")
    if _LEADING_COMPARISON.match(candidate) or (_RATIO.search(candidate) and not _RATIO.search(gold)):
        return True
    if "=" not in candidate or "=" in gold:
        return False
    left, _, right = candidate.rpartition("=")
    sides = [_SUBSCRIPT.sub("", _CALLED.sub("f", side)).strip() for side in left.split("=")]
    numbers = {canonical_number(side) for side in (*sides, right.strip())} - {None}
    return len(numbers) > 1 or any(is_unsolved(side) for side in sides)


def _words(text: str) -> str | None:
    return " ".join(text.lower().replace("-", " ").split()) if _LETTERS.fullmatch(text) else None


def _unit(raw: str) -> Unit | None:
    if found := _UNIT_AFTER.search(_TEXT_COMMAND.sub(r" \1 ", raw.replace("{", " {"))):
        return unit_named(found[1])
    return unit_named("$") if "$" in raw and raw.count("$") == 1 else None
