"""Reads the text after an answer marker: one number, nothing, prose, or an ambiguous value that gets no reward.

These may surround the one number literal: a label ("Answer:", "the answer is", "x =", "9 * 2 ="), an approximation sign
or word ("≈", "about"), brackets or quotes around the whole, a percent sign (18% is 18), trailing unit words and
chatter, and a parenthesis that ``answer_aside`` finds to say the same number again or to explain it. The value is
ambiguous when the rest could change it:

* an equation that is not solved ("2x = 10") or that states two numbers ("20 = 18");
* a second number in any script or as a word: ranges, lists, fractions, mixed numbers, clock times, "2 hours 30
  minutes", "18 dollars and fifty cents";
* a magnitude ("2 million", "5k", "3 dozen", "½"), a variable ("2x"), an operator, an inequality, a factorial mark;
* a negation or an alternative ("18 or more", "not 18"), a bound ("at least 18"), a continued decimal ("3.33...");
* grouping other than in threes ("3,5", "1,00,000", "1 234" with an ordinary space);
* parentheses around an unsigned number and nothing else: "(10)" is minus ten in accounting.
"""

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

from tasks.scoring.answer_aside import without_aside
from tasks.scoring.answer_markup import plain_value
from tasks.scoring.number_text import NUMBER_WORD, canonical_number, match_number

ReadingKind = Literal["number", "ambiguous", "empty", "prose"]
MarkerKind = Literal["hash", "boxed"]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The content of the text after a marker."""

    kind: ReadingKind
    """``empty`` is a bare marker or label, and ``prose`` attempts no answer."""
    canonical: str | None = None
    """Canonical decimal text of a ``number``; None for every other kind."""


_AMBIGUOUS = Reading(kind="ambiguous")
_EMPTY = Reading(kind="empty")
_PROSE = Reading(kind="prose")

_HEADING = re.compile(
    r"\(?[0-9]{1,2}(?:[.)]{1,2}(?: [(\"'\[]?\w|[^\W\d_])|(?: -|:) ?[^\W\d_]| — ?(?!(?:the|this|that|which)\b)[^\W\d_])"
    r"|(?i:step|part|case|option|method|example|section|phase|stage|round|problem|question|solution|approach)"
    r" ?#?[0-9]"
)
"""Markdown level-4 headings: "1. Count eggs", "2) Multiply", "3: Add", "Step 4: 9 * 2 = 18"."""

_LABEL = re.compile(
    r"(?:(?:so|thus|therefore|hence),? )?(?:(?:the|my|our) )?(?:(?:final|correct|numerical|numeric|total) ){0,2}"
    r"(?:answer|ans|result|total|value|solution)(?: (?:is|equals|was)(?: exactly)?(?![a-z]))?",
    re.IGNORECASE,
)
_LABEL_ENDS = (":", " is", " equals", " was", " exactly")
_COLON_LABEL = re.compile(r"[^0-9:]{0,80}:(?!:) ?")
_LEADING_SIGN = re.compile(
    r"(?:(?:[=-]>|[→⇒⟹⟶=≈~≃]|(?:approximately|about|around|roughly|approx\.?|exactly)(?![a-z])) ?){1,3}", re.IGNORECASE
)
_LIST_IN_EQUATION = re.compile(r"[,;](?![0-9]{3})|\b(?:and|or)\b", re.IGNORECASE)
_BARE_APPROXIMATION = re.compile(r"^([^0-9=≈]{1,40})≈")
_LATEX_NAME = re.compile(r"\\[A-Za-z]+")
_TIMES = re.compile(r"(?<=[0-9)]) ?[xX] ?(?=[0-9(.])")
# "2m" and "r/2" compute with a letter that can be a unit too
_LETTER_TERM = re.compile(r"[0-9.]+[A-Za-z]|(?:.*[^A-Za-z0-9.\\ ] ?)?[A-Za-z] ?(?:\^|[-+*/] ?[0-9]).*")
_FUNCTION = re.compile(r"\\(?:sqrt|log|ln|exp|sin|cos|tan|[dtc]?frac)(?![A-Za-z])")
_UNKNOWN = re.compile(r"(?<![A-Za-z])[abknpqtuvwxyzNPXYZ](?![A-Za-z])")
_WORD = re.compile(r"[A-Za-z]{2}")
_BRACKETS = {"(": ")", "[": "]", "{": "}", "<": ">", '"': '"', "'": "'", "“": "”", "‘": "’", "«": "»"}

_CHANGES_THE_VALUE = re.compile(
    rf"\b(?:{NUMBER_WORD}|or|either|versus|vs|plus|minus|divided|multiplied|squared|cubed|factorial|pi"
    r"|not|never|cannot|wrong|incorrect|false|isn|doesn|wasn)\b"
    r"|[{}\\]|(?<=[A-Za-z])n['’]t\b",
    re.IGNORECASE,
)
_TAKES_BACK = re.compile(
    r"(?:minus|negative|less|fewer|more|greater|under|over|at least|at most|up to|between|from|either|nearly|almost) "
    r"(?=[^:]*[0-9])"
    r"|(?:minus|negative|not|cannot|none|nothing|neither|undefined|unknown|impossible|infinit[ey])\b"
    r"|no (?:solution|answer)\b"
    rf"|(?:{NUMBER_WORD}|one)(?:[ -](?:and )?(?:{NUMBER_WORD}|one))*"
    r"(?: (?!(?:ways?|methods?|steps?|approach(?:es)?|checks?|notes?|cases?|things?|parts?)\b)[a-z]+)?[.!]?$",
    re.IGNORECASE,
)
_NEGATION = re.compile(r"\b(?:not|never|cannot|wrong|incorrect|isn|doesn|wasn)\b|n['’]t\b", re.IGNORECASE)
_MAGNITUDE_LETTER = re.compile(r" ?(?:[kKMBbTtxXyYzZnieE])(?![A-Za-z'’-])")
_MILLIONS = re.compile(r" ?[mM](?![A-Za-z])")
_CALENDAR = (
    r"(?:st|nd|rd|th)?(?: of)? ?(?:(?:Jan|Febr?)(?:uary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?"
    r"|Sept?(?:ember)?|(?:Oct|Nov|Dec)(?:ober|ember)?)\b(?! be)"
)
# directly after the number: a date, 1,000 x 1,000 or 144, an unknown, a mark that repeats the digit below it
_OTHER_VALUE = re.compile(
    rf"{_CALENDAR}| ?\([a-z]\)| ?(?:MM|gross)\b| ?/ ?[xyz]\b| ?[xyz]{{2,3}}(?![A-Za-z])|[\u0300-\u036f\u20d0-\u20ff]"
)
_CLOCK = re.compile(r" ?[ap]\.?m\b", re.IGNORECASE)
_SLASH_UNIT = re.compile(r"/ ?[^\W\d_]")
_REST_START = re.compile(r" ?%?(?:$|[ ,;:?()\]\"'”’»°¢/]|\.(?![.\w…])|- ?(?=[^\W\d_])|[^\W\d_]|[^\x00-\x7f])")


def read_value(raw: str, marker: MarkerKind) -> Reading:
    """The content of ``raw``, the text after a ``####`` or inside a box."""
    raw = raw.strip(" ")
    bare = raw.removeprefix("$").removesuffix(".")
    if (canonical := canonical_number(bare)) is not None:
        return Reading(kind="number", canonical=canonical)
    plain = plain_value(raw)
    text = plain.text
    if marker == "hash" and not plain.has_currency and _HEADING.match(text):
        return _PROSE
    # every box holds an answer; a line with these words takes back the answer before it
    prose = _AMBIGUOUS if (marker == "boxed" and _WORD.search(text)) or _TAKES_BACK.match(text) else _PROSE
    if _NEGATION.search(text):
        return _AMBIGUOUS if _has_number(text) else prose
    stripped = _without_labels(text)
    if stripped is None:
        return _AMBIGUOUS
    if not stripped.strip(".:;,-"):
        return _EMPTY
    number = match_number(stripped)
    if number is None:
        is_attempt = _has_number(stripped) and not (marker == "hash" and stripped[0].isalpha())
        return _AMBIGUOUS if is_attempt else prose
    rest = stripped[number.end :]
    if rest == "!" and raw.startswith("$") and raw.count("$") == 1:
        rest = ""  # "$5!" is an exclamation; "5!" and "$5!$" are factorials
    if "." in stripped[: number.end] and _CLOCK.match(rest):
        return _AMBIGUOUS
    aside_free = without_aside(rest, number.canonical, has_currency=plain.has_currency)
    if aside_free is None or _changes_value(aside_free, plain.has_currency):
        return _AMBIGUOUS
    return Reading(kind="number", canonical=number.canonical)


def is_accounting(text: str) -> bool:
    """Whether ``text`` is an unsigned number in parentheses, which is negative in accounting."""
    inside = text[1:-1].strip(" %")
    is_parenthesis = text[:1] == "(" and text[-1:] == ")"
    return is_parenthesis and inside[:1] not in ("+", "-") and canonical_number(inside) is not None


def _without_labels(text: str) -> str | None:
    """``text`` without the labels before its number; None when it equates several values."""
    text = _BARE_APPROXIMATION.sub(r"\1=", text)
    for _ in range(4):
        before = text
        bracketed = text.rstrip(".,;")
        if is_accounting(bracketed):
            return None
        if len(bracketed) > 1 and _BRACKETS.get(bracketed[0]) == bracketed[-1]:
            text = bracketed[1:-1].strip()
        if sign := _LEADING_SIGN.match(text):
            text = text[sign.end() :]
        left, equals, right = text.rpartition("=")
        is_aside = left.count("(") > left.count(")") and match_number(text) is not None  # "18 boxes (9 * 2 = 18)"
        if equals and not is_aside and not right.startswith(">"):
            sides = left.split("=")
            if any(is_unsolved(side) for side in sides) or _states_another_number(sides, right):
                return None
            if left.endswith(("!", "<", ">", "≠")) or _LIST_IN_EQUATION.search(left) or not right:
                return None if _has_number(text) else ""
            text = right.strip()
        label = _COLON_LABEL.match(text) or _LABEL.match(text)
        if label and (label[0].rstrip().lower().endswith(_LABEL_ENDS) or label.end() == len(text)):
            text = text[label.end() :].strip()
        if text == before:
            break
    return text


def _states_another_number(sides: list[str], right: str) -> bool:
    """Whether a side of an equation is a number, and not that of the right side: "20 = 18"."""
    number = match_number(right.strip())
    stated = {canonical_number(side.strip()) for side in sides} - {None}
    return number is not None and not stated <= {number.canonical}


def is_unsolved(side: str) -> bool:
    """Whether a side of an equation computes with an unknown ("2x", "x + 1"): the other side is not the answer then."""
    if _FUNCTION.search(side) and _UNKNOWN.search(_LATEX_NAME.sub(" ", side)):
        return True
    if _LETTER_TERM.fullmatch(side.strip()):
        return True
    side = _TIMES.sub("×", _LATEX_NAME.sub(" ", side))
    if _WORD.search(side) or not _UNKNOWN.search(side):
        return False
    return _has_number(side) or _has_operator(side) or any(sign in side for sign in "-/*·")


def _changes_value(rest: str, has_currency: bool) -> bool:
    """Whether the text after the literal changes its value, or adds another value."""
    if not rest:
        return False
    if not _REST_START.match(rest) or _MAGNITUDE_LETTER.match(rest) or _OTHER_VALUE.match(rest):
        return True
    if has_currency and _MILLIONS.match(rest):
        return True
    if rest.count("/") != len(_SLASH_UNIT.findall(rest)) or rest.endswith("-"):
        return True
    return _CHANGES_THE_VALUE.search(rest) is not None or _has_number(rest) or _has_operator(rest)


def _has_number(text: str) -> bool:
    return any(character.isnumeric() for character in set(text))


def _has_operator(text: str) -> bool:
    return any(unicodedata.category(character) == "Sm" or character in "^π…‰‱" for character in set(text))
