"""Whole numbers spelled out in English: 118 is "one hundred eighteen"."""

import re

_BELOW_TWENTY = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SCALES = ((10**9, "billion"), (10**6, "million"), (1_000, "thousand"), (100, "hundred"))
_MOST_DIGITS = 12
_BETWEEN = re.compile("(?:,? |-)(?:and )?")
_AFTER = re.compile("(?= |$)(?! one(?: |$))")


def end_of_spelling(text: str, canonical: str) -> int | None:
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
