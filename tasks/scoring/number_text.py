"""One number literal, read exactly: text in, canonical decimal text out, no floating point in between.

Canonical text is unique per value ("18", "1234.5", "-10", "0"), so two numbers are equal exactly when their texts
are. Reading moves digits about as text, which stays linear where ``int`` and ``Fraction`` are quadratic.
"""

import re
from dataclasses import dataclass

MAX_DIGITS = 300
"""Most digits before and after the decimal point, each; a longer literal is not a number here."""

MAX_EXPONENT = 100
"""Largest absolute exponent: ``1e999999999`` must not become a gigabyte of zeros."""

_DIGITS = rf"[0-9]{{1,{MAX_DIGITS}}}"
# Groups are of three and never start with 0: "0,123" is a decimal comma, "1,00,000" and "12,34" are not read.
_WHOLE = rf"(?P<whole>[1-9][0-9]{{0,2}}(?:,[0-9]{{3}}){{1,99}}(?![0-9])|{_DIGITS})"
_LITERAL = re.compile(
    rf"(?P<sign>[+-]?) ?(?:{_WHOLE}(?:\.(?P<part>{_DIGITS}))?|\.(?P<bare>{_DIGITS}))"
    r"(?:[eE](?P<exponent>[+-]?[0-9]{1,4})(?![0-9]))?"
)


@dataclass(frozen=True, kw_only=True)
class NumberMatch:
    """A literal found at the start of a text: its canonical value and where it ends."""

    canonical: str
    end: int


def match_number(text: str) -> NumberMatch | None:
    """The number literal at the start of ``text``: sign, thousands groups, decimals, exponent, in ASCII.

    None when no literal stands there, or when its exponent is out of bounds.
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
    if len(text) <= MAX_DIGITS and text.isascii() and text.isdecimal():  # nearly all are: no pattern needed
        return text.lstrip("0") or "0"
    match = match_number(text)
    return match.canonical if match is not None and match.end == len(text) else None


def _canonical(negative: bool, whole: str, part: str, exponent: int) -> str:
    if exponent > 0:
        whole, part = whole + part[:exponent].ljust(exponent, "0"), part[exponent:]
    elif exponent < 0:
        padded = whole.rjust(-exponent, "0")
        whole, part = padded[:exponent], padded[exponent:] + part
    whole, part = whole.lstrip("0") or "0", part.rstrip("0")
    text = f"{whole}.{part}" if part else whole
    return f"-{text}" if negative and text != "0" else text


# MERGED from @number_words: Whole numbers spelled out in English: 118 is "one hundred eighteen".
_BELOW_TWENTY = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SCALES = ((10**9, "billion"), (10**6, "million"), (1_000, "thousand"), (100, "hundred"))
_MOST_DIGITS = 12
_BETWEEN = re.compile("(?:,? |-)(?:and )?")
_AFTER = re.compile("(?= |$)(?! one(?: |$))")


def end_of_number_words(text: str, canonical: str) -> int | None:
    """Where the words at the start of ``text`` that spell ``canonical`` end; None when they spell no or another number.

    Hyphens, commas and "and" may stand between the words. Only whole numbers from 0 on are known.
    """
    if not canonical.isdecimal() or len(canonical) > _MOST_DIGITS:
        return None
    text, end = text.lower(), 0
    for index, word in enumerate(_words(int(canonical))):
        if index:
            between = _BETWEEN.match(text, end)
            end = between.end() if between else len(text)
        if not text.startswith(word, end):
            return None
        end += len(word)
    return end if _AFTER.match(text, end) else None


def _words(number: int) -> list[str]:
    for scale, name in _SCALES:
        if number >= scale:
            rest = number % scale
            return [*_words(number // scale), name, *(_words(rest) if rest else [])]
    if number < len(_BELOW_TWENTY):
        return [_BELOW_TWENTY[number]]
    ones = number % 10
    return [_TENS[number // 10], *([_BELOW_TWENTY[ones]] if ones else [])]


# MERGED from @flexible_answer: The last number of a text, whatever stands around it: for diagnosis, never the reward.
#
# A wide gap between this and the strict answer means that the model solves the task and misses the format.
_DIGIT_CHARS = "0123456789"


def last_number_run(text: str) -> str | None:
    """The longest run of digits, dots and commas that ends in the text's last ASCII digit, with a minus before it."""
    end = max(text.rfind(digit) for digit in _DIGIT_CHARS) + 1
    if end == 0:
        return None
    start = len(text[:end].rstrip(_DIGIT_CHARS + ".,"))
    return text[start - 1 : end] if start and text[start - 1] in "-\u2212" else text[start:end]


def canonical_run(run: str | None) -> str | None:
    """Canonical value of a run with its commas dropped ("1,234" is 1234, and "3,5" is 35), or None."""
    if run is None:
        return None
    digits = run.lstrip("-\u2212").replace(",", "")
    if digits.startswith(".."):
        digits = digits.lstrip(".")
    return canonical_number("-" + digits if run[0] in "-\u2212" else digits)
