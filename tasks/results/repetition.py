"""Degenerate repetition: a completion that ends in a loop.

After Holtzman et al. 2020, section 5.3 (https://arxiv.org/abs/1904.09751), who call a generation repetitive when it
ends in a phrase that it has just repeated at least three times.
"""

import polars as pl

PHRASE_CHARS = 32
OCCURRENCES = 4


def is_repetitive(completion: pl.Expr) -> pl.Expr:
    """Whether the last PHRASE_CHARS characters of the completion occur in it at least OCCURRENCES times.

    Trailing white space is ignored. Null for a null completion. Any loop that ran OCCURRENCES times is found, whatever
    its period; so is a tail of dashes or zeros that is OCCURRENCES phrases long.
    """
    text = completion.cast(pl.String).str.strip_chars_end()
    phrase = text.str.tail(PHRASE_CHARS)
    is_long = text.str.len_bytes() >= PHRASE_CHARS * OCCURRENCES
    count = pl.when(is_long).then(text).str.count_matches(phrase, literal=True)
    return pl.when(text.is_not_null()).then((count >= OCCURRENCES).fill_null(False))
