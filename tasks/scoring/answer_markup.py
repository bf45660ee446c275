"""Removes the markup around a value: LaTeX, markdown, HTML tags, currency, typographic spaces and minus signs.

``plain_value`` is for numbers. ``unwrapped`` is for expressions: it takes away only what stands around the whole.

Models write one number in many ways, and the reward depends on the number alone. Unknown markup stays, and a backslash
or brace that stays makes the value ambiguous.
"""

import re
from dataclasses import dataclass

_CURRENCY = "$€£¥₹₽₩₱₪₫₺₴₦฿₿＄￡￥"
_CODES = "USD|EUR|GBP|JPY|CNY|RMB|INR|CAD|AUD|NZD|SGD|HKD|CHF|MXN|BRL|PHP|ZAR"
_CURRENCY_SIGN = re.compile(
    rf"(?:\b(?:US|CA|AU|NZ|HK|NT|A|C|R|S))?(?:\\\$|[{_CURRENCY}]|\\(?:pounds|euro)(?![A-Za-z]))"
)
_CURRENCY_CODE = re.compile(rf"\b(?:{_CODES}|Rs\.?) ?(?=[+-]? ?\.?[0-9])")

_GROUP_SPACE = re.compile(r"(?<=[0-9])(?:[\u00a0\u2007\u2009\u202f]|\\[,:;])(?=[0-9]{3}(?![0-9]))")
"""Narrow and no-break spaces between groups of digits. An ordinary space separates two numbers."""

_MINUS = str.maketrans(dict.fromkeys("\u2212\u2010\u2011\u2012\u2013\ufe63", "-"))
_TEXT_COMMAND = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|texttt|mathrm|mathbf|mathit|mathsf|mathtt|operatorname|mbox|bm|boldsymbol"
    r"|boxed|fbox|underline|emph) ?\{([^{}]*)\}"
)
_LATEX_WORDS = {
    "times": "×",
    "cdot": "×",
    "approx": "≈",
    "sim": "≈",
    "circ": "°",
    "degree": "°",
    "cents": "¢",
    "cent": "¢",
    "left": "",
    "right": "",
    "displaystyle": " ",
    **dict.fromkeys(("bf", "bfseries", "rm", "sf", "it", "textstyle", "small", "large", "Large", "LARGE", "huge"), " "),
    "quad": " ",
    "qquad": " ",
}
_COLOUR = re.compile(r"\\(?:text)?color ?\{[A-Za-z!0-9]{1,20}\}")
_LATEX_WORD = re.compile(r"\\(" + "|".join(sorted(_LATEX_WORDS, key=len, reverse=True)) + r")(?![A-Za-z])")
_LATEX_SPACE = re.compile(r"\\[ ,:;()\[\]\\]|(?<=[0-9A-Za-z}])~(?=[\\ A-Za-z])")
_TAG = re.compile(r"</?[A-Za-z][^<>]{0,60}>")
_MARKS = str.maketrans("*_`", "   ")
_DEGREES = re.compile(r" ?\^ ?(?:\{ ?° ?\}|°)")
_SUPERSCRIPT = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
_POWER_OF_TEN = re.compile(
    r"(?<=[0-9]) ?[x×X*·⋅] ?10 ?(?:(?:\^|\*\*) ?(?:\{ ?([+-]?[0-9]{1,4}) ?\}|([+-]?[0-9]{1,4})(?![0-9]))"
    r"|([⁺⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]{1,4})(?![⁰¹²³⁴⁵⁶⁷⁸⁹]))"
)
_WRAPPINGS = (
    re.compile(r"\$\$?([^$]+)\$\$?|\\\(((?:(?!\\[()]).)+)\\\)|\\\[((?:(?!\\[\[\]]).)+)\\\]", re.DOTALL),
    re.compile(r"\*{1,3}([^*]+)\*{1,3}|__?([^_]+)__?|`{1,3}([^`]+)`{1,3}"),
    _TEXT_COMMAND,
    re.compile(r"\(([A-Za-z])\)"),  # a choice
    re.compile(r"(.*[^.\s])\s*\.", re.DOTALL),
    re.compile(rf"(?:{_CURRENCY_SIGN.pattern})\s*([^${_CURRENCY}]*)", re.DOTALL),
)
# "x^2" is no unit
_UNIT_POWER = re.compile(r"(?:(?<=[A-Za-z][A-Za-z])|(?<=[ /0-9}][ms]))(?: ?\^ ?(?:\{[23]\}|[23](?![0-9]))|[²³])")


@dataclass(frozen=True, kw_only=True)
class PlainValue:
    """A value without its markup, single-spaced."""

    text: str
    has_currency: bool
    """Whether a currency sign or code was removed."""


def plain_value(raw: str) -> PlainValue:
    """``raw``, the text after a marker or inside a box, without markup. Takes time linear in its length."""
    text = raw
    if "\\" in text or "{" in text:
        text = text.replace(",\\!", ",").replace("{,}", ",").replace("\\!", "")
    text = _GROUP_SPACE.sub(",", text).translate(_MINUS)
    has_currency = False
    if "\\" in text:
        text, has_currency = _without_latex(text)
    text, currencies = _CURRENCY_SIGN.subn(" ", text)
    text = " ".join(_TAG.sub(" ", text).split())
    text = _UNIT_POWER.sub("", _POWER_OF_TEN.sub(_exponent, _DEGREES.sub("°", text)))
    # a space replaces marks of emphasis and code, so that "9*2" and "1_000" stay two numbers
    text = text.replace("~~", "≠").translate(_MARKS)
    text, codes = _CURRENCY_CODE.subn(" ", " ".join(text.strip(" #").split()))
    text = " ".join(text.split())
    return PlainValue(text=text, has_currency=has_currency or bool(currencies or codes))


def unwrapped(raw: str) -> str:
    """``raw`` without the markup around all of it, a full stop, a currency sign before it, and spaces at its ends.

    "**1/2**.", "\\(1/2\\)" and "\\text{(C)}" become "1/2", "1/2" and "C". What is inside stays as it is.
    """
    text = raw.strip()
    for _ in range(4):
        before = text
        for wrapping in _WRAPPINGS:
            if match := wrapping.fullmatch(text):
                text = next(group for group in match.groups() if group is not None).strip()
        if text == before:
            break
    return text


def _without_latex(text: str) -> tuple[str, bool]:
    for _ in range(4):
        text, unwrapped = _TEXT_COMMAND.subn(r" \1 ", text)
        if not unwrapped:
            break
    text = _COLOUR.sub(" ", text)
    # this comes before "\%" and the spaces: "\$" is a dollar, and a bare "$" may delimit mathematics
    text, currencies = _CURRENCY_SIGN.subn(" ", text)
    text = text.replace("\\%", "%").replace("\\#", "#")
    text = _LATEX_WORD.sub(lambda match: _LATEX_WORDS[match[1]], text)
    return _LATEX_SPACE.sub(" ", text), bool(currencies)


def _exponent(match: re.Match[str]) -> str:
    return "e" + (match[1] or match[2] or match[3].translate(_SUPERSCRIPT))
