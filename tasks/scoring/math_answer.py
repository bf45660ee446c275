"""Cleans answers and ground truths for Math-Verify, which reads LaTeX and plain expressions, but no markup or prose."""

import re

from tasks.scoring.answer_markup import plain_value, unwrapped
from tasks.scoring.answer_value import NUMBER_WORD, is_accounting, read_value

MAX_ANSWER_CHARS = 1_000
"""Longest answer that is compared, in characters."""

_LABEL = re.compile(r"[*_]{0,3}(?:the )?(?:final )?answer(?: is(?![a-z])| ?:|[*_]{1,3} ?:)[*_]{0,3} *", re.IGNORECASE)
_COMMAND = re.compile(r"\\[A-Za-z]+")
_LETTER = re.compile(r"[^\W\d_]")
_FUNCTION = "arc[a-z]+|(?:sin|cos|tan|cot|sec|csc)h?|log|exp|sqrt|max|min|gcd|lcm|mod|det|lim|inf|sup|arg|deg"
_GREEK = "alpha|beta|gamma|delta|epsilon|theta|lambda|sigma|omega|phi|psi|rho|tau"
_PROSE_WORD = re.compile(rf"(?:^|(?<=[\s{{(])|(?<=[A-Za-z]/))(?!(?:{_FUNCTION}|{_GREEK})\b)[A-Za-z]{{3,}}\b")
_SHORT_WORD = re.compile(
    r"(?<=\s)(?:an?|as|at|by|for|he|in|is|it|my|of|on|per|so|to|we|cm|mm|km|kg|mg|ml|ft|lb|oz|mi|hr)\b", re.IGNORECASE
)
_FRACTION = r"-?(?:[0-9]+ ?/ ?[0-9]+|\\[dt]?frac ?\{[0-9]+\} ?\{[0-9]+\})"
_FRACTION_WITH_UNIT = re.compile(rf"({_FRACTION})((?: (?!(?:{NUMBER_WORD}|or|and)\b)[A-Za-z]+)+)", re.IGNORECASE)
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_NO_ANSWER = re.compile(r"|nan|none|null|n/a", re.IGNORECASE)
_NUMBER_WORD = re.compile(rf"\b(?:{NUMBER_WORD}|one)\b", re.IGNORECASE)
_SPELLED = re.compile(rf"\b(?:{NUMBER_WORD}|one|an?|and|minus|negative)\b|[ ,-]", re.IGNORECASE)


def math_answer(raw: str) -> str:
    """The expression in ``raw``, the text after a marker or inside a box; empty when there is none.

    One number, in whatever form the strict scorer reads it, becomes its canonical decimal text. Of anything else, only
    the markup around it, a label, and the unit of a fraction are taken away.
    """
    if len(raw) > MAX_ANSWER_CHARS:
        return raw.strip()
    text = unwrapped(raw)
    if label := _LABEL.match(text):
        text = unwrapped(text[label.end() :])
    number = read_value(raw, "boxed").canonical
    if number is not None and _is_plain_number(text):
        return number
    with_unit = _FRACTION_WITH_UNIT.fullmatch(text)
    return with_unit[1] if with_unit and _PROSE_WORD.search(with_unit[2]) else text


def math_gold(ground_truth: str) -> str | None:
    """The expression in ``ground_truth``; None for nothing, NaN, a number in words, and what is not comparable."""
    gold = math_answer(ground_truth.rsplit("####", 1)[-1])
    is_spelled = _NUMBER_WORD.search(gold) is not None and not _SPELLED.sub("", gold)
    return None if _NO_ANSWER.fullmatch(gold) or is_spelled or not is_comparable(gold) else gold


def is_comparable(text: str) -> bool:
    """Whether ``text`` is not too long, has matching braces, and means one thing."""
    return len(text) <= MAX_ANSWER_CHARS and _is_balanced(text) and not is_accounting(plain_value(text).text)


def _is_plain_number(text: str) -> bool:
    """Whether what surrounds the number in ``text`` is prose or markup, and no algebra: "3 eggs", not "3abc", "x = 3".

    Percent is left to Math-Verify.
    """
    if "=" in text or "%" in text:
        return False
    text = _COMMAND.sub("", text)
    without_prose, prose_words = _PROSE_WORD.subn("", text)
    if prose_words:
        text = _SHORT_WORD.sub("", without_prose)
    return _LETTER.search(text) is None


def _is_balanced(text: str) -> bool:
    depth = 0
    for brace in _BRACE.findall(text):
        depth += {"{": 1, "}": -1}.get(brace, 0)
        if depth < 0:
            return False
    return depth == 0
