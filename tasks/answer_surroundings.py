r"""What stands beside an answer marker and makes another value of it, or one of several.

A box is often a part of the mathematics around it: ``-\boxed{18}``, ``\boxed{18}^2``, ``\boxed{2} million``. Only what
adjoins the box on its own line is looked at; the rest of the line is chatter and may hold other numbers.
"""

import re

from tasks.answer_value import NUMBER_WORD

_REACH = 80
_DELIMITERS = re.compile(r"\\?\$|\\[(\[)\]]|\\(?:displaystyle|left|right)(?![a-z])|\*\*|__")
_BOX = r"\\(?:boxed|fbox) ?\{[^{}]*\} ?"
_FRACTION = r"\\[dtc]?frac ?"

_ALTERNATIVE = re.compile(rf"(?:####[^#]*[0-9][^#]*|{_BOX})(?:,? ?\b(?:or|and|to)|[,/|-]) ?$", re.IGNORECASE)
_TAKEN_BEFORE = re.compile(
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
_TAKEN_AFTER = re.compile(
    r"[.,:]?[0-9]|[\u0300-\u036f]"  # touches the box
    r"| ?(?:\^(?! ?\{? ?(?:\\circ|°))|[×÷·±=<>≤≥≠‰½¼¾⅓⅔]|[-+*/\u2212\u2013] ?[0-9(\\]|/ ?[xyz]\b)"
    r"|(?:\\[,;:!]|[ ~])*(?:[0-9]|\\(?:times|cdot|div|pm|[dtc]?frac|sqrt|pi|neq?|leq?|geq?|boxed|fbox)(?![A-Za-z]))"
    r"|(?:\\[,;:!]|[ ~])*(?:\\(?:text[a-z]{0,2}|math[a-z]{2}|mbox) ?\{)? ?(?:[kKMBbTtxXyYzZnie](?![A-Za-z'’-])"
    rf"|(?i:(?:{NUMBER_WORD}|or|and an?|to [0-9]+|plus|minus|times|squared|cubed)\b))"
)


def is_taken_in(text: str, start: int, end: int) -> bool:
    """Whether the box at ``text[start:end]`` is a part of the expression, the number or the list around it."""
    if is_alternative(text, start) or _TAKEN_BEFORE.search(_line_before(text, start)):
        return True
    after = _DELIMITERS.sub("", text[end : end + _REACH].split("\n", 1)[0].lstrip("}"))
    return _TAKEN_AFTER.match(after) is not None


def is_alternative(text: str, start: int) -> bool:
    """Whether the marker at ``start`` gives another choice beside a marker on the same line."""
    return _ALTERNATIVE.search(_line_before(text, start)) is not None


def _line_before(text: str, start: int) -> str:
    """The line's text up to ``start`` without what delimits mathematics and emphasis, its spaces kept.

    The spaces tell a list item ("- $18$") from a sign ("-$18$").
    """
    return _DELIMITERS.sub("", text[max(0, start - _REACH) : start].rsplit("\n", 1)[-1])
