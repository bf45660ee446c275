"""Text from models and datasets, made safe to look at: it may hold anything, escape codes for terminals included."""

import re
import unicodedata

_DELETE, _LAST_C0 = 0x7F, 0x1F
_PICTURES = 0x2400
_KEPT = "\n\t"
# C0 and C1 controls, and the format characters that reorder or hide what follows (bidirectional controls, tags)
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\U000e0000-\U000e007f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def visible(text: str) -> str:
    """``text`` with every character that a terminal or browser would act on replaced by one that shows it.

    Line feeds and tabs stay, carriage returns before them go. C0 controls become Unicode control pictures, others
    their code point in brackets.
    """
    text = text.replace("\r\n", "\n")
    return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", _UNSAFE.sub(lambda match: _picture(match.group()), text))


def shortened(text: str, most: int) -> str:
    """At most ``most`` characters of ``text``, the middle left out, saying how many were."""
    if len(text) <= most:
        return text
    head = most * 2 // 3
    tail = most - head
    return f"{text[:head]} … [{len(text) - most:,} characters left out] … {text[-tail:]}"


def one_line(text: str, most: int) -> str:
    """``text`` made visible on one line of at most ``most`` characters."""
    line = visible(text[: 4 * most]).replace("\n", "⏎").replace("\t", " ")
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _picture(character: str) -> str:
    code = ord(character)
    if code <= _LAST_C0:
        return chr(_PICTURES + code)
    if code == _DELETE:
        return "\N{SYMBOL FOR DELETE}"
    return f"[{unicodedata.name(character, f'U+{code:04X}')}]"
