"""Reads numbers in text exactly: literals ("1,234.50"), English words ("eighteen"), and the last number of a text.

Numbers are returned as canonical decimal text ("18", "1234.5", "-10", "0"), which is unique per value: two numbers are
equal exactly when their texts are equal. Digits are moved as text, without floating point. This takes linear time,
while ``int`` and ``Fraction`` take quadratic time.
"""

import re
from dataclasses import dataclass

MAX_DIGITS = 300
"""Most digits before the decimal point, and most after it. A longer literal is not read as a number."""

MAX_EXPONENT = 100
"""Largest absolute exponent. Without a limit, ``1e999999999`` becomes a gigabyte of zeros."""

_DIGITS = rf"[0-9]{{1,{MAX_DIGITS}}}"
# A group has three digits, and the first never starts with 0 ("0,123" has a decimal comma).
# "1,00,000" and "12,34" are not read.
_WHOLE = rf"(?P<whole>[1-9][0-9]{{0,2}}(?:,[0-9]{{3}}){{1,99}}(?![0-9])|{_DIGITS})"
_LITERAL = re.compile(
    rf"(?P<sign>[+-]?) ?(?:{_WHOLE}(?:\.(?P<part>{_DIGITS}))?|\.(?P<bare>{_DIGITS}))"
    r"(?:[eE](?P<exponent>[+-]?[0-9]{1,4})(?![0-9]))?"
)

_BELOW_TWENTY = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SCALES = ((10**9, "billion"), (10**6, "million"), (1_000, "thousand"), (100, "hundred"))
_MAX_SPELLED_DIGITS = 12
_WORD_SEPARATOR = re.compile("(?:,? |-)(?:and )?")
_WORDS_END = re.compile("(?= |$)(?! one(?: |$))")
_DIGIT_CHARS = "0123456789"

COUNT_WORD = "|".join((*_BELOW_TWENTY[:1], *_BELOW_TWENTY[2:], *_TENS[2:]))
SCALE_WORD = (
    "hundreds?|thousands?|thou|millions?|billions?|trillions?|quadrillions?|quintillions?|grand|lakhs?|lacs?|crores?"
    "|mil|mio|mn|bn|tn|tsd"
)
NUMBER_WORD = (
    f"{COUNT_WORD}|{SCALE_WORD}|dozens?|doz"
    "|half|halves|thirds?|fourths?|fifths?|sixths?|sevenths?|eighths?|ninths?|tenths?|hundredths?|thousandths?"
    "|(?:and|less|over) one|and an?"
)
"""A pattern of words that state a number. "One" alone is more often a pronoun."""


@dataclass(frozen=True, kw_only=True)
class NumberMatch:
    """A number literal at the start of a text: its canonical text, and the index after its last character."""

    canonical: str
    end: int


def match_number(text: str) -> NumberMatch | None:
    """The number literal at the start of ``text``: sign, thousands groups, decimals, exponent, in ASCII.

    None when there is no literal, or when its exponent is above MAX_EXPONENT.
    """
    match = _LITERAL.match(text)
    if match is None:
        return None
    exponent = int(match["exponent"] or 0)
    if abs(exponent) > MAX_EXPONENT:
        return None
    whole = (match["whole"] or "").replace(",", "")
    part = match["part"] or match["bare"] or ""
    return NumberMatch(canonical=_canonical(match["sign"] == "-", whole, part, exponent), end=match.end())


def canonical_number(text: str) -> str | None:
    """Canonical decimal text of ``text`` when it is one number literal and nothing else, else None."""
    if len(text) <= MAX_DIGITS and text.isascii() and text.isdecimal():  # nearly all literals; faster
        return text.lstrip("0") or "0"
    match = match_number(text)
    return match.canonical if match is not None and match.end == len(text) else None


def end_of_number_words(text: str, canonical: str) -> int | None:
    """The index after the English words at the start of ``text`` that spell ``canonical``; None when they do not.

    Hyphens, commas and "and" may separate the words. Only whole numbers of at most 12 digits, 0 included, are known.
    """
    if not canonical.isdecimal() or len(canonical) > _MAX_SPELLED_DIGITS:
        return None
    text, end = text.lower(), 0
    for index, word in enumerate(_words(int(canonical))):
        if index:
            separator = _WORD_SEPARATOR.match(text, end)
            end = separator.end() if separator else len(text)
        if not text.startswith(word, end):
            return None
        end += len(word)
    return end if _WORDS_END.match(text, end) else None


def with_digits(text: str) -> str:
    """``text`` with digits in place of the English words from "zero" to "ninety-nine"."""
    return _BELOW_HUNDRED.sub(lambda match: str(_SPELLED[match[0].lower().replace("-", " ")]), text)


def last_number(text: str) -> str | None:
    """Canonical text of the last number in ``text``, whatever surrounds it; None when there is none.

    It is for diagnosis only, never for the reward. When it is right far more often than the strict answer, the model
    solves the task and misses the format.
    """
    end = max(text.rfind(digit) for digit in _DIGIT_CHARS) + 1
    if end == 0:
        return None
    start = len(text[:end].rstrip(_DIGIT_CHARS + ".,"))
    return lenient_number(text[start - 1 : end] if start and text[start - 1] in "-\u2212" else text[start:end])


def lenient_number(digits: str) -> str | None:
    """Canonical text of a run of digits, dots and commas with an optional minus, read without its commas; or None.

    "1,234" is 1234, and "3,5" is 35.
    """
    unsigned = digits.lstrip("-\u2212").replace(",", "")
    if unsigned.startswith(".."):
        unsigned = unsigned.lstrip(".")
    return canonical_number("-" + unsigned if digits[0] in "-\u2212" else unsigned)


def _canonical(negative: bool, whole: str, part: str, exponent: int) -> str:
    if exponent > 0:
        whole, part = whole + part[:exponent].ljust(exponent, "0"), part[exponent:]
    elif exponent < 0:
        padded = whole.rjust(-exponent, "0")
        whole, part = padded[:exponent], padded[exponent:] + part
    whole, part = whole.lstrip("0") or "0", part.rstrip("0")
    text = f"{whole}.{part}" if part else whole
    return f"-{text}" if negative and text != "0" else text


def _words(number: int) -> list[str]:
    for scale, name in _SCALES:
        if number >= scale:
            rest = number % scale
            return [*_words(number // scale), name, *(_words(rest) if rest else [])]
    if number < len(_BELOW_TWENTY):
        return [_BELOW_TWENTY[number]]
    ones = number % 10
    return [_TENS[number // 10], *([_BELOW_TWENTY[ones]] if ones else [])]


_SPELLED = {" ".join(_words(number)): number for number in range(100)}
_BELOW_HUNDRED = re.compile(
    r"\b(?:" + "|".join(words.replace(" ", "[ -]") for words in sorted(_SPELLED, key=len, reverse=True)) + r")\b",
    re.IGNORECASE,
)
