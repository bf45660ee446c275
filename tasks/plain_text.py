"""Make text of models, datasets and other people's runs safe to show: it may hold anything, such as escape codes."""

import re
import unicodedata

_DELETE, _LAST_C0 = 0x7F, 0x1F
_CONTROL_PICTURES = 0x2400
# C0 and C1 controls, and the format characters that reorder or hide what follows (bidirectional controls, tags)
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\U000e0000-\U000e007f]")
_MARKDOWN = re.compile(r"[\\`*_\[\]<>|~#&!$@]|:(?=//)|(?<=www)\.", re.IGNORECASE)
"""What starts emphasis, code, a link, an image, a heading, a table cell, a formula, HTML or an address by itself."""
_EXACT = 2**53
"""Larger floats have no fraction, whatever they were."""
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def visible(text: str) -> str:
    """Return ``text`` with every character that a terminal or browser would act on replaced by a visible one.

    Keeps line feeds and tabs; CR LF becomes LF. C0 controls become Unicode control pictures, other characters their
    name or code point in brackets.
    """
    text = text.replace("\r\n", "\n")
    return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", _UNSAFE.sub(lambda match: _picture(match.group()), text))


def shortened(text: str, max_length: int) -> str:
    """Return the start and end of ``text``, ``max_length`` characters in all, and how many are left out between."""
    if len(text) <= max_length:
        return text
    head = max_length * 2 // 3
    tail = max_length - head
    return f"{text[:head]} … [{len(text) - max_length:,} characters left out] … {text[-tail:]}"


def one_line(text: str, max_length: int) -> str:
    """Return ``text``, made visible, on one line of at most ``max_length`` characters."""
    line = visible(text[: 4 * max_length]).replace("\n", "⏎").replace("\t", " ")
    return line if len(line) <= max_length else f"{line[: max_length - 1]}…"


def quoted(pattern: str) -> str:
    """Return ``pattern`` in quotes as its user wrote it, where ``repr`` would double each backslash."""
    return f"'{one_line(pattern, 200)}'"


def markdown(text: object, max_length: int = 500) -> str:
    """Return ``text`` on one line in Markdown that shows it as it is: nothing in it is markup or a link."""
    return _MARKDOWN.sub(r"\\\g<0>", one_line(str(text), max_length))


def plain_number(value: object) -> object:
    """Return a float without a fraction as the whole number that it is, and any other value unchanged.

    Numbers that a scorer adds are floats on disk, as other rows may have fractions.
    """
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return int(value)
    return value


def clock(seconds: float) -> str:
    """Return a duration as H:MM:SS, or as M:SS if it is shorter than an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _picture(character: str) -> str:
    code = ord(character)
    if code <= _LAST_C0:
        return chr(_CONTROL_PICTURES + code)
    if code == _DELETE:
        return "\N{SYMBOL FOR DELETE}"
    return f"[{unicodedata.name(character, f'U+{code:04X}')}]"
