"""Finds the answer that a completion states: the text after its last ``####``, or in its last ``\\boxed{}``.

The markers are read from the last to the first, and the first one that attempts an answer decides. Headings ("#### 1.
Count eggs"), placeholders ("#### <number>"), prose and empty boxes are not attempts and are skipped. An attempt that
cannot be read (a range, a fraction, an unclosed box) gives no answer: it withdraws the earlier answer, which then earns
no reward.

A box can be a part of the mathematics around it, which then has another value: ``-\\boxed{18}``, ``\\boxed{18}^2``,
``\\boxed{2} million``. Only the text next to the box on the same line is checked; the rest of the line may hold other
numbers.
"""

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tasks.scoring.answer_text import AnswerText
from tasks.scoring.answer_value import MarkerKind, read_value
from tasks.scoring.number_text import NUMBER_WORD

AnswerMethod = Literal["hash", "boxed", "ambiguous", "none", "truncated"]

MAX_BOX_CHARS = 256
"""A box that is not closed within this many characters is read as unclosed."""

MAX_MARKERS = 128
"""How many of the last markers are read. This bounds the time for any text."""

_CONTEXT_CHARS = 80
_MATH_DELIMITERS = re.compile(r"\\?\$|\\[(\[)\]]|\\(?:displaystyle|left|right)(?![a-z])|\*\*|__")
_BOX = r"\\(?:boxed|fbox) ?\{[^{}]*\} ?"
_FRACTION = r"\\[dtc]?frac ?"

_ALTERNATIVE = re.compile(rf"(?:####[^#]*[0-9][^#]*|{_BOX})(?:,? ?\b(?:or|and|to)|[,/|-]) ?$", re.IGNORECASE)
_EXPRESSION_BEFORE = re.compile(
    r"(?:[-+\u2212\u2013/^×÷·±≤≥≠0-9]|[0-9]\*)$"  # touches the box
    r"|(?:[0-9)}=(] ?[-+\u2212\u2013*]|[/^×÷·±≤≥≠]|[^\W\d_] [<>]|!=) ?$"
    r"|\\(?:times|cdot|div|pm|mp|neq?|leq?|geq?|lt|gt|sqrt) ?$"
    rf"|(?:{_FRACTION}(?:\{{[^{{}}]*\}} ?)?|\\sqrt ?(?:\[[^\]]*\])? ?|\\d?binom ?|[\^_] ?)\{{ ?$"
    rf"|{_FRACTION}\{{[^{{}}]*\}} ?\{{[^{{}}]*\}} ?$"
    rf"|{_BOX}$"
    r"|(?:\b(?:not|never|minus|negative|at (?:least|most)|(?:more|less|fewer|greater) than)|n['’]t)"
    r"(?: be| equal to)? ?$",
    re.IGNORECASE,
)
_EXPRESSION_AFTER = re.compile(
    r"[.,:]?[0-9]|[\u0300-\u036f]"  # touches the box
    r"| ?(?:\^(?! ?\{? ?(?:\\circ|°))|[×÷·±=<>≤≥≠‰½¼¾⅓⅔]|[-+*/\u2212\u2013] ?[0-9(\\]|/ ?[xyz]\b)"
    r"| ?(?i:(?:is|was|seems|looks) (?:wrong|incorrect|false|not)\b|(?:isn|wasn)['’]t\b)"
    r"|(?:\\[,;:!]|[ ~])*(?:[0-9]|\\(?:times|cdot|div|pm|[dtc]?frac|sqrt|pi|neq?|leq?|geq?|boxed|fbox)(?![A-Za-z]))"
    r"|(?:\\[,;:!]|[ ~])*(?:\\(?:text[a-z]{0,2}|math[a-z]{2}|mbox) ?\{)? ?(?:[kKMBbTtxXyYzZnie](?![A-Za-z'’-])"
    rf"|(?i:(?:{NUMBER_WORD}|or|and an?|to [0-9]+|plus|minus|times|squared|cubed)\b))"
)

# exactly four number signs, or a box; the search skips to the next "#" or backslash
_MARKER = re.compile(r"[#\\](?:(?<=#)(?<!##)###(?!#)|(?P<box>(?<=\\)(?:boxed|fbox) ?\{))")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answer that a completion states."""

    canonical: str | None
    """Canonical decimal text; None unless ``method`` is ``hash`` or ``boxed``."""
    method: AnswerMethod
    """How the answer was found, or why there is none."""


@dataclass(frozen=True, kw_only=True)
class MarkedValue:
    """The text that one marker marks."""

    raw: str
    """The text as the model wrote it."""
    kind: MarkerKind
    """``hash`` after a ``####``, ``boxed`` inside a box."""
    is_open: bool = False
    """Whether the completion ends inside the text, so that characters may be missing."""
    is_unclosed_box: bool = False
    """Whether the text is in a box that is not closed within MAX_BOX_CHARS."""
    is_partial: bool = False
    """Whether the text beside the marker makes the value a part of another value, or one of several alternatives."""


def find_answer(cleaned: AnswerText, *, is_cut: bool) -> Answer:
    """The answer that ``cleaned`` states; ``is_cut`` says that the model did not end the completion itself."""
    is_cut = is_cut and not cleaned.is_ended
    for marked in marked_values(cleaned.text):
        answer = answer_from(marked, is_cut=is_cut)
        if answer is not None:
            return answer
    return Answer(canonical=None, method="truncated" if is_cut else "none")


def answer_from(marked: MarkedValue, *, is_cut: bool) -> Answer | None:
    """The answer of one marker, or None when the marker attempts no answer."""
    reading = read_value(marked.raw, marked.kind)
    if reading.kind == "prose" and not marked.is_unclosed_box:
        return None
    if is_cut and marked.is_open:
        return Answer(canonical=None, method="truncated")
    if reading.kind == "empty" and not marked.is_unclosed_box:
        return None
    if reading.kind == "number" and not marked.is_unclosed_box and not marked.is_partial:
        return Answer(canonical=reading.canonical, method=marked.kind)
    return Answer(canonical=None, method="ambiguous")


def marked_values(text: str) -> Iterator[MarkedValue]:
    """The values of the last MAX_MARKERS markers of ``text``, last first; a box in a box belongs to the outer one."""
    markers = list(deque(_MARKER.finditer(text), maxlen=MAX_MARKERS))
    index = len(markers) - 1
    while index >= 0:
        outer = _enclosing_box(text, markers, index)
        if markers[outer]["box"]:
            yield _boxed_value(text, markers[outer])
        else:
            following = markers[index + 1].start() if index + 1 < len(markers) else len(text)
            yield _line_value(text, markers[index], following)
        index = outer - 1


def _enclosing_box(text: str, markers: list[re.Match[str]], index: int) -> int:
    """Index of the outermost box around marker ``index``; ``index`` itself when there is none."""
    start, outer = markers[index].start(), index
    for before in range(index - 1, -1, -1):
        marker = markers[before]
        if start - marker.start() > MAX_BOX_CHARS:
            break
        closing = _closing_brace(text, marker.end()) if marker["box"] else None
        if closing is not None and closing > start:
            outer = before
    return outer


def _boxed_value(text: str, marker: re.Match[str]) -> MarkedValue:
    closing = _closing_brace(text, marker.end())
    if closing is not None:
        is_partial = _is_part_of_expression(text, marker.start(), closing + 1)
        return MarkedValue(raw=text[marker.end() : closing], kind="boxed", is_partial=is_partial)
    end = marker.end() + MAX_BOX_CHARS
    return MarkedValue(raw=text[marker.end() : end], kind="boxed", is_open=end >= len(text), is_unclosed_box=True)


def _closing_brace(text: str, start: int) -> int | None:
    depth = 1
    for brace in _BRACE.finditer(text, start, start + MAX_BOX_CHARS):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return brace.start()
    return None


def _line_value(text: str, marker: re.Match[str], following: int) -> MarkedValue:
    """The rest of the marker's line, or the next line when the rest is empty or only a label."""
    end, is_open = _line_end(text, marker.end())
    is_partial = _is_alternative(text, marker.start())
    if following < end:
        return MarkedValue(raw=text[marker.end() : following], kind="hash", is_partial=is_partial)
    line = MarkedValue(raw=text[marker.end() : end], kind="hash", is_open=is_open, is_partial=is_partial)
    line_start = text.rfind("\n", 0, marker.start()) + 1
    if is_open or text[line_start : marker.start()].strip(" \t>*_-") or read_value(line.raw, "hash").kind != "empty":
        return line
    for _ in range(2):
        start = end + 1
        end, is_open = _line_end(text, start)
        if start < end:
            value = text[start : min(end, following)]
            if value.strip():
                return MarkedValue(raw=value, kind="hash", is_open=is_open and following >= end)
        if is_open:
            break
    return MarkedValue(raw="", kind="hash", is_open=is_open)


def _line_end(text: str, start: int) -> tuple[int, bool]:
    end = text.find("\n", start)
    return (len(text), True) if end < 0 else (end, False)


def _is_part_of_expression(text: str, start: int, end: int) -> bool:
    """Whether the box at ``text[start:end]`` is a part of the expression, the number or the list around it."""
    if _is_alternative(text, start) or _EXPRESSION_BEFORE.search(_line_before(text, start)):
        return True
    after = _MATH_DELIMITERS.sub("", text[end : end + _CONTEXT_CHARS].split("\n", 1)[0].lstrip("}"))
    return _EXPRESSION_AFTER.match(after) is not None


def _is_alternative(text: str, start: int) -> bool:
    """Whether the marker at ``start`` is an alternative to a marker before it on the same line."""
    return _ALTERNATIVE.search(_line_before(text, start)) is not None


def _line_before(text: str, start: int) -> str:
    """The text of the line before ``start``, without the delimiters of mathematics and emphasis, with its spaces.

    The spaces tell a list item ("- $18$") from a sign ("-$18$").
    """
    return _MATH_DELIMITERS.sub("", text[max(0, start - _CONTEXT_CHARS) : start].rsplit("\n", 1)[-1])
