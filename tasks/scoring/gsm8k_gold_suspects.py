"""Recognises the GSM8K train rows whose published answer is wrong, by the text of the question.

A right completion scores 0 on such a row, so the scores flag it.

Eleven candidates (0-based indices 167, 356, 657, 1081, 1342, 2770, 3529, 4795, 6670, 7182, 7401) were checked by
hand. Seven are wrong:

=====  =========  =====  ======================================================================
index  published  right  why
=====  =========  =====  ======================================================================
167    1920       19200  192 minutes at $100 a minute; the last product lost a zero
356    66         64     24 answers x 2 points + 4 bonuses x 4 points, as its own solution says
1081   2460       1060   500 / 1000 = 0.5 litres a bee, not 2; 800 bees x 0.7 = 560, plus 500
2770   106        108    70 + 38, as its own solution says
3529   3          13     40% of 50 is 20, not 30; 50 - 20 - 17
7182   4          10     2x + 5 = x/2 + 20 gives x = 10, as its own solution says
7401   10850      10750  5250 + 4000 + 1500
=====  =========  =====  ======================================================================

Four are not wrong, and are not flagged: 657 (leave at 0730, published as 730), 1342 (354,000 plus a windfall of
1.5 x 354,000 is 885,000), 6670 (30 chips, 40% of them green: 12) and 4795 (4 hours, if "the bathroom" means both
bathrooms; 6 if it means each). The candidate 4795 was probably meant to be its neighbour 4796, which is wrong. Every
published answer of the train split was also compared with the numbers and sums of its own solution. This comparison
found 4796 and one more:

=====  =========  =====  ======================================================================
4796   140        120    100 tanks + 20 trucks, as its own solution says
7444   280        140    every other day for 2 weeks is 7 gigs, not 14; 7 x 20 minutes
=====  =========  =====  ======================================================================

So nine rows are flagged. The comparison finds slips of arithmetic, not wrong reasoning: more answers may be wrong.
"""

import hashlib

import polars as pl

HASH_CHARS = 16
"""Length of a question's hash, in hex digits."""

GOLD_SUSPECTS = frozenset(
    {
        "b860d90347ca2196",  # 167
        "8c3672013cff1d10",  # 356
        "54819f09e7f6bbfa",  # 1081
        "bec1c461873d3187",  # 2770
        "c7ca4f35d37d1139",  # 3529
        "bf21404b1e4f3c8e",  # 4796
        "445d153492ea0420",  # 7182
        "4062372e21d99043",  # 7401
        "f3fc035e488959bb",  # 7444
    }
)
"""The ``question_hash`` of each question whose published answer is wrong, with its 0-based index."""


def question_hash(question: str) -> str:
    """First HASH_CHARS hex digits of the sha256 of ``question`` with its white space normalised."""
    return hashlib.sha256(" ".join(question.split()).encode()).hexdigest()[:HASH_CHARS]


def is_gold_suspect(question: str) -> bool:
    """Whether ``question`` is a GSM8K question whose published answer is wrong."""
    return question_hash(question) in GOLD_SUSPECTS


def suspect_flags(questions: pl.Series) -> pl.Series:
    """``is_gold_suspect`` per question; false where the question is null. Each distinct question is hashed once."""
    suspects = [question for question in questions.drop_nulls().unique() if is_gold_suspect(question)]
    return questions.is_in(suspects).fill_null(False).alias("gold_suspect")
