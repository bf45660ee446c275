"""The last number of a text, whatever stands around it: for diagnosis, never the reward.

A wide gap between this and the strict answer means that the model solves the task and misses the format.
"""

from tasks.number_literal import canonical_number

_DIGITS = "0123456789"


def last_number_run(text: str) -> str | None:
    """The longest run of digits, dots and commas that ends in the text's last ASCII digit, with a minus before it."""
    end = max(text.rfind(digit) for digit in _DIGITS) + 1
    if end == 0:
        return None
    start = len(text[:end].rstrip(_DIGITS + ".,"))
    return text[start - 1 : end] if start and text[start - 1] in "-\u2212" else text[start:end]


def canonical_run(run: str | None) -> str | None:
    """Canonical value of a run with its commas dropped ("1,234" is 1234, and "3,5" is 35), or None."""
    if run is None:
        return None
    digits = run.lstrip("-\u2212").replace(",", "")
    if digits.startswith(".."):
        digits = digits.lstrip(".")
    return canonical_number("-" + digits if run[0] in "-\u2212" else digits)
