"""Compares mathematical answers with Math-Verify, and gives equal answers one text.

It runs in the workers of ``math_workers``, since both can take any time and memory.
"""

from typing import Any, Literal

from tasks.scoring.number_text import canonical_number

Outcome = Literal["right", "wrong", "bad_gold", "timeout"]

DECIMALS = 6
"""Decimals to which Math-Verify compares numbers that are not exact."""

MAX_TEXT_CHARS = 1_000
_DIGITS = 40


def compare(candidate: str, gold: str) -> Outcome:
    """Whether Math-Verify finds ``candidate`` equal to ``gold``."""
    from math_verify import verify

    truth = _parse(gold)
    if not truth:
        return "bad_gold"
    return "right" if verify(truth, _parse(candidate), timeout_seconds=None) else "wrong"


def shared_text(candidate: str) -> str | None:
    """The text of ``candidate`` that equal candidates have too; None for words, and for what SymPy cannot work with.

    A number becomes a decimal of at most DECIMALS decimals, and an expression is expanded. Answers whose equality takes
    more than that, such as trigonometry, keep texts of their own.
    """
    from math_verify.grader import is_assignment_relation, is_equation, take_last_relation

    if candidate.replace(" ", "").isalpha():
        return None  # Math-Verify reads a product of letters
    expression = next((found for found in _parse(candidate) if not isinstance(found, str)), None)
    if expression is None:
        return None
    try:
        if is_assignment_relation(expression) or (is_equation(expression) and not expression.free_symbols):
            expression = take_last_relation(expression).rhs
        text = _text(expression.doit())
    except Exception:  # SymPy raises errors of many types for expressions that make no sense
        return None
    return text if len(text) <= MAX_TEXT_CHARS else None


def _parse(text: str) -> list[Any]:
    from math_verify import parse

    found: list[Any] = parse(f"\\boxed{{{text}}}", parsing_timeout=None)
    return found


def _text(expression: Any) -> str:
    import sympy

    if not isinstance(expression, sympy.Expr):
        return str(expression)
    if expression.is_number and expression.is_real:
        number = expression if expression.is_Integer else expression.evalf(_DIGITS)
        is_small = abs(number) < 10**-3
        text = str(number if number.is_Integer or is_small else number.round(DECIMALS))
        return canonical_number(text) or text
    return str(sympy.expand(sympy.nsimplify(expression, rational=True)))
