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
