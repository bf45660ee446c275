"""A parenthesis explains the number before it, or makes it ambiguous, for both scorers."""

import pytest

from tasks.scoring.gsm8k_scorer import score_gsm8k

EXPLAINED = {
    "24 cookies (2 trays of 12)": "24",
    "24 cookies (two trays of twelve)": "24",
    "24 cookies (2 trays of 12 each) in total.": "24",
    "42 eggs (twenty-one twice = forty-two)": None,
    "42 eggs (2 boxes of twenty-one)": "42",
    "18 boxes (9 * 2 = 18)": "18",
    "18 (3 * 4 + 6 = 18)": "18",
    "18 eggs (9 + 9)": "18",
    "18 eggs (20 minus 2)": "18",
    "18 eggs (20% of 90)": "18",
    "18 eggs (36 / 2)": "18",
    "18 eggs (36 / 0)": None,
    "$18 (9 x $2)": "18",
    "18(y)": None,
    "18 (n)": None,
    "18 eggs (total = 18)": "18",
    "18 (eighteen)": "18",
    "18 eggs (no numbers here, just words)": "18",
    "60 minutes (1 hour)": "60",
    "36 inches (3 feet)": "36",
    "24 months (2 years)": "24",
    "-18 dollars (a loss)": "-18",
}
AMBIGUOUS = [
    "5 feet (8 inches)",
    "5 feet (one inch)",
    "3 years (6 months)",
    "18 hours (30 minutes more)",
    "18 cookies (total is 20 cookies)",
    "18 eggs (correction: 20)",
    "$18 (correct answer: 20 dollars)",
    "18 apples (final answer 20)",
    "18 apples (Answer: 20 apples)",
    "$18 (total: $20)",
    "18 eggs (2 broken, leaving 16)",
    "18 eggs (2 broken and 16 left)",
    "18 eggs (18 more)",
    "18 (5 boxes of 4)",
    "18 (9 * 2)",
    "18 cookies (2 trays of 12)",
    "24 cookies (3 trays of 12 = 36)",
    "18 (9 + 11 = 20 eggs)",
    "18 eggs (9 * 2 = 20)",
    "18 eggs (9 * 2 = 18 = 20)",
    "18 eggs (= 20)",
    "18 dollars (18 * 2 = 36)",
    "18 eggs (should be 20)",
    "18 eggs (should be twenty)",
    "18 apples (it equals 20)",
    "18 apples (if 2 are eaten then 16)",
    "18 eggs (Sorry, I meant 20)",
    "18 eggs (let me recheck: 20)",
    "20 = 18",
]
READINGS = EXPLAINED | dict.fromkeys(AMBIGUOUS)
"""What is read of each text after a marker. What the math scorer rewards: ``test_plain_answers.py``."""


@pytest.mark.parametrize("text", READINGS)
def test_gsm8k_reads(text: str) -> None:
    assert score_gsm8k(f"#### {text}", "18").extracted_answer == READINGS[text]


@pytest.mark.parametrize("repeated", ["a ", "1 ", "1 a ", "one ", "=", "1=", "1 x ", "'", "1+", "(", ")"])
def test_a_long_text_in_a_parenthesis_takes_bounded_time(repeated: str) -> None:
    # what takes quadratic time would never end
    for size in (190, 200_000):
        assert score_gsm8k(f"#### 18 eggs ({repeated * (size // len(repeated))})", "19").reward == 0
