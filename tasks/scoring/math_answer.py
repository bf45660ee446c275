"""Cleans answers and ground truths for Math-Verify, which reads LaTeX and plain expressions, but no markup or prose."""

import re

from tasks.scoring.answer_markup import plain_value, unwrapped
from tasks.scoring.answer_value import is_accounting
from tasks.scoring.number_text import NUMBER_WORD
from tasks.scoring.plain_answers import FUNCTION, GREEK, plain_number, states_one_thing

MAX_ANSWER_CHARS = 1_000
"""Longest answer that is compared, in characters."""

_LABEL = re.compile(r"[*_]{0,3}(?:the )?(?:final )?answer(?: is(?![a-z])| ?:|[*_]{1,3} ?:)[*_]{0,3} *", re.IGNORECASE)
_PROSE_WORD = re.compile(rf"(?<=\s)(?!(?:{FUNCTION}|{GREEK})\b)[A-Za-z]{{3,}}\b")
_FRACTION = r"-?(?:[0-9]+ ?/ ?[0-9]+|\\[dt]?frac ?\{[0-9]+\} ?\{[0-9]+\})"
_FRACTION_WITH_UNIT = re.compile(rf"({_FRACTION})((?: (?!(?:{NUMBER_WORD}|or|and)\b)[A-Za-z]+)+)", re.IGNORECASE)
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_NO_ANSWER = re.compile(r"|nan|none|null|n/a|[+-]?inf(?:inity)?|true|false", re.IGNORECASE)
_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff"
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
    # an equation may be the answer, and a percentage has two values
    if "=" not in text and "%" not in text and (number := plain_number(raw)) is not None:
        return number
    with_unit = _FRACTION_WITH_UNIT.fullmatch(text)
    return with_unit[1] if with_unit and _PROSE_WORD.search(with_unit[2]) else text


def math_gold(ground_truth: str) -> str | None:
    """The expression in ``ground_truth``; None for nothing, NaN, a number in words, and what is not comparable."""
    gold = math_answer(ground_truth.rsplit("####", 1)[-1].strip(_INVISIBLE + " \n"))
    is_spelled = _NUMBER_WORD.search(gold) is not None and not _SPELLED.sub("", gold)
    return None if _NO_ANSWER.fullmatch(gold) or is_spelled or not is_comparable(gold) else gold


def is_comparable(text: str) -> bool:
    """Whether ``text`` is not too long, has matching braces, and means one thing."""
    return (
        len(text) <= MAX_ANSWER_CHARS
        and _is_balanced(text)
        and (states_one_thing(text) or plain_number(text) is not None)
        and not is_accounting(plain_value(text).text)
    )


def _is_balanced(text: str) -> bool:
    depth = 0
    for brace in _BRACE.findall(text):
        depth += {"{": 1, "}": -1}.get(brace, 0)
        if depth < 0:
            return False
    return depth == 0
