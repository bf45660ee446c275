from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.scoring.number_text import canonical_number, end_of_number_words, match_number


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("18", "18"),
        ("+18", "18"),
        ("- 18", "-18"),
        ("018.50", "18.5"),
        ("1,234,567.80", "1234567.8"),
        (".5", "0.5"),
        ("-0.0", "0"),
        ("2e3", "2000"),
        ("2.5E-3", "0.0025"),
        ("1234e-2", "12.34"),
        ("9" * 300, "9" * 300),
        ("9" * 301, None),
        ("1e100", "1" + "0" * 100),
        ("1e101", None),
        ("1e-101", None),
        ("1,23", None),
        ("1,2345", None),
        ("0,123", None),
        ("1.2.3", None),
        ("5.", None),
        (".", None),
        ("", None),
        ("1_000", None),
        ("١٨", None),
    ],
)
def test_canonical_number(text: str, canonical: str | None) -> None:
    assert canonical_number(text) == canonical


@given(
    st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**12), max_value=10**12),
    st.integers(-20, 20),
)
def test_canonical_text_is_the_exact_value(value: object, exponent: int) -> None:
    literal = f"{value:f}e{exponent}"
    canonical = canonical_number(literal)
    assert canonical is not None
    assert Fraction(canonical) == Fraction(literal)
    assert canonical_number(canonical) == canonical


@given(st.fractions(max_denominator=1), st.integers(0, 4))
def test_equal_numbers_have_equal_text(number: Fraction, zeros: int) -> None:
    whole = int(number)
    point = "." if zeros else ""
    assert canonical_number(f"{whole}{point}{'0' * zeros}") == str(whole)


def test_a_match_ends_after_the_literal() -> None:
    match = match_number("1,234 dollars")
    assert match is not None
    assert (match.canonical, match.end) == ("1234", 5)


@pytest.mark.parametrize(
    ("canonical", "text"),
    [
        ("0", "zero"),
        ("7", "seven"),
        ("18", "Eighteen"),
        ("40", "forty"),
        ("21", "twenty-one"),
        ("21", "twenty one"),
        ("100", "one hundred"),
        ("118", "one hundred eighteen"),
        ("118", "one hundred and eighteen"),
        ("1000", "one thousand"),
        ("12345", "twelve thousand, three hundred and forty-five"),
        ("300000", "three hundred thousand"),
        ("2000001", "two million and one"),
        (
            "999999999999",
            "nine hundred ninety-nine billion nine hundred ninety-nine million "
            "nine hundred ninety-nine thousand nine hundred ninety-nine",
        ),
    ],
)
def test_words_that_spell_the_number_are_matched(canonical: str, text: str) -> None:
    assert end_of_number_words(text, canonical) == len(text)
    assert end_of_number_words(f"{text} eggs", canonical) == len(text)


@pytest.mark.parametrize(
    ("canonical", "text"),
    [
        ("18", ""),
        ("18", "eight"),
        ("18", "eighteenth"),
        ("18", "nineteen"),
        ("18", "and eighteen"),
        ("18", "nine nine"),
        ("20", "twenty-one"),
        ("20", "twenty one"),
        ("21", "twenty"),
        ("100", "one hundred one"),
        ("100", "hundred"),
        ("1100", "eleven hundred"),
        ("-18", "eighteen"),
        ("1.5", "one"),
        ("1000000000000", "one thousand billion"),
        ("18", "eıghteen"),
    ],
)
def test_other_words_are_not_matched(canonical: str, text: str) -> None:
    assert end_of_number_words(text, canonical) is None
