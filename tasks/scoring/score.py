"""What scoring one completion yields, and what a scorer is."""

from dataclasses import dataclass
from typing import Protocol

import polars as pl

SCORER_OUTPUT = pl.Schema(
    {
        "reward": pl.Float32,
        "extracted_answer": pl.String,
        "extraction_method": pl.String,
        "correct_flexible": pl.Boolean,
    }
)
"""What a scorer's ``score_columns`` returns, one row per row of its input."""

CORRECT_ABOVE = 0.5
"""A completion counts as correct when its reward is above this."""

CUT_FINISH_REASONS = ("length", "abort", "error", "repetition", "max_tokens", "content_filter")
"""Finish reasons of a generation that something other than the model ended: its last characters may be missing."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One completion's score.

    ``reward`` is 1.0 or 0.0 for the built-in scorers, and NaN (null in a file) where there is none to give.
    ``extracted_answer`` is canonical decimal text ("18", "1234.5", "-10") for ``gsm8k``. ``method`` says how it was
    found, or why not: ``hash``, ``boxed``, ``none``, ``ambiguous``, ``truncated``, ``error``, ``gold_unparseable``,
    ``math``, ``timeout``, ``custom``. ``correct_flexible``: the text's last number equals the ground truth; for
    diagnosis only.
    """

    reward: float
    extracted_answer: str | None
    method: str
    correct_flexible: bool


class Scorer(Protocol):
    """Scores a frame of completions; ``name`` and ``version`` enter the score files."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    def score_columns(self, rows: pl.DataFrame) -> pl.DataFrame:
        """SCORER_OUTPUT for ``rows`` with ``completion``, ``ground_truth`` and ``finish_reason``, in order."""
        ...


def scorer_output(scores: list[Score]) -> pl.DataFrame:
    """``scores`` as a frame in SCORER_OUTPUT; a NaN reward becomes null."""
    return pl.DataFrame(
        {
            "reward": [score.reward for score in scores],
            "extracted_answer": [score.extracted_answer for score in scores],
            "extraction_method": [score.method for score in scores],
            "correct_flexible": [score.correct_flexible for score in scores],
        },
        schema=SCORER_OUTPUT,
        strict=False,
    ).with_columns(pl.col("reward").fill_nan(None))
