import pytest

from tasks.scoring.number_text import end_of_number_words


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
def test_a_number_is_known_by_its_words(canonical: str, text: str) -> None:
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
def test_other_words_are_not_taken_for_it(canonical: str, text: str) -> None:
    assert end_of_number_words(text, canonical) is None
