"""Degenerate repetition: a completion that ends in a loop.

After Holtzman et al. 2020, section 5.3 (https://arxiv.org/abs/1904.09751), who call a generation repetitive when it
ends in a phrase that it has just said at least three times.
"""

import polars as pl

PHRASE_CHARS = 32
OCCURRENCES = 4


def is_repetitive(completion: pl.Expr) -> pl.Expr:
    """Whether the last PHRASE_CHARS characters of the completion stand in it at least OCCURRENCES times.

    White space at the end does not count. Null for a null completion. A loop of any period shows as long as it turned
    OCCURRENCES times; an end of dashes or zeros shows when it fills as many phrases.
    """
    text = completion.cast(pl.String).str.strip_chars_end()
    phrase = text.str.tail(PHRASE_CHARS)
    is_long = text.str.len_bytes() >= PHRASE_CHARS * OCCURRENCES
    count = pl.when(is_long).then(text).str.count_matches(phrase, literal=True)
    return pl.when(text.is_not_null()).then((count >= OCCURRENCES).fill_null(False))
