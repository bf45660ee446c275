"""Answers and ground truths are cleaned for Math-Verify."""

import pytest

from tasks.scoring.math_answer import is_comparable, math_answer, math_gold

ANSWERS = {
    "**73**": "73",
    "5.": "5",
    "1/2.": "1/2",
    "C.": "C",
    "(C)": "C",
    "\\textbf{(D)}": "D",
    "$70,000.": "70000",
    "-\\$5": "-5",
    "$5!": "5",
    "5!": "5!",
    "70,000 dollars a year": "70000",
    "70 miles/hour": "70",
    "70{,}000 \\text{ dollars}": "70000",
    "24 cookies (2 trays of 12)": "24",
    "1/2 of the cake": "1/2",
    "1/2 million": "1/2 million",
    "**Answer:** 1/2": "1/2",
    "The answer is **C**.": "C",
    "Answer: 3abc": "3abc",
    "\\(x^2\\)": "x^2",
    "\\(x\\) or \\(y\\)": "\\(x\\) or \\(y\\)",
    "$$\\frac12$$.": "\\frac12",
    "2*3": "2*3",
    "x_1": "x_1",
    "x = 5": "x = 5",
    "3abc": "3abc",
    "3/abc": "3/abc",
    "3-abc": "3-abc",
    "3 cos x": "3 cos x",
    "3 eggs or 4": "3 eggs or 4",
    "18\\%": "18\\%",
    "3.33...": "3.33...",
    "(1,2)": "(1,2)",
    "**": "**",
    "Answer:": "",
}


@pytest.mark.parametrize("raw", ANSWERS)
def test_only_markup_and_prose_are_taken_away(raw: str) -> None:
    assert math_answer(raw) == ANSWERS[raw]


@pytest.mark.parametrize("text", ["(10)", "($1,000)", "\\left(10\\right)", "\\frac{1}{2", "}", "9" * 1_001])
def test_what_means_nothing_or_several_things_is_not_compared(text: str) -> None:
    assert not is_comparable(text)
    assert math_gold(text) is None


@pytest.mark.parametrize("text", ["*", "\\(", "\\[", "(", "$", " .", "\\text{", "answer ", "1/2 a", "and an "])
def test_a_megabyte_is_left_as_it_is(text: str) -> None:
    long = text * 500_000
    assert math_answer(long) == long.strip()
    assert len(math_answer(long[:1_000])) <= 1_000
