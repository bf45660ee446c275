"""Defines the score of one completion and the interface of a scorer, which every scorer shares."""

from dataclasses import dataclass
from typing import Protocol

import polars as pl

from profiles.settings import RIGHT_AT as RIGHT_AT

SCORER_OUTPUT = pl.Schema(
    {
        "reward": pl.Float32,
        "extracted_answer": pl.String,
        "extraction_method": pl.String,
        "correct_flexible": pl.Boolean,
    }
)
"""Columns that ``Scorer.score_columns`` returns, one row per row of its input."""


CUT_FINISH_REASONS = ("length", "abort", "error", "repetition", "max_tokens", "content_filter")
"""Finish reasons of completions that the model did not end itself; their last characters may be missing."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One completion's score."""

    reward: float
    """1.0 or 0.0 for the built-in scorers; NaN (null in a file) when the completion cannot be scored."""
    extracted_answer: str | None
    """Equal answers to a question have equal texts, which votes and comparisons count. For ``gsm8k``, canonical decimal
    text: "18", "1234.5", "-10"."""
    method: str
    """How the answer was found, or why not: ``hash``, ``boxed``, ``none``, ``ambiguous``, ``truncated``, ``error``,
    ``gold_unparseable``, ``math``, ``timeout``, ``custom``, or ``failed: `` and what a custom scorer failed with."""
    correct_flexible: bool
    """Whether the last number of the text equals the ground truth; for diagnosis only."""


def is_right(reward: str, right_at: float) -> pl.Expr:
    """Return whether the column ``reward`` is at least ``right_at``; null without a reward."""
    # rewards are Float32 on disk, where 0.7 is less than 0.7
    return pl.col(reward).cast(pl.Float32) >= pl.lit(right_at, pl.Float32)


class Scorer(Protocol):
    """Scores a frame of completions; ``name`` and ``version`` enter the score files."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    def score_columns(self, rows: pl.DataFrame) -> pl.DataFrame:
        """SCORER_OUTPUT, and further columns if there are any, in the order of ``rows``.

        ``rows`` has ``completion``, ``ground_truth`` and ``finish_reason``. ``opening``, where there is
        such a column, is the reasoning tag with which the prompt ends.
        """
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
