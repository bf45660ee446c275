"""The strict GSM8K scorer.

The reward is 1 when the completion's answer, after its last ``####`` or in its last ``\\boxed{}``, is exactly one
number and equals the ground truth. ``answer_text``, ``answer_marker`` and ``answer_value`` define what counts as text,
marker and number.
"""

import math

import polars as pl

from tasks.scoring.answer_marker import find_answer
from tasks.scoring.answer_text import answer_text
from tasks.scoring.answer_value import read_value
from tasks.scoring.gsm8k_answers import find_answers
from tasks.scoring.number_text import last_number
from tasks.scoring.opening_column import whole_completions
from tasks.scoring.score import CUT_FINISH_REASONS, Score

GSM8K_NAME = "gsm8k"
GSM8K_VERSION = "4"
"""Every change that can change a reward increases it."""


def score_gsm8k(completion: str, ground_truth: str, finish_reason: str | None = "stop") -> Score:
    """The strict GSM8K score of one completion.

    A completion that was cut inside its answer (``finish_reason`` "length") scores 0 with method ``truncated``. A
    ``ground_truth`` that is not one number gives a NaN reward and method ``gold_unparseable``.
    """
    cleaned = answer_text(completion)
    answer = find_answer(cleaned, is_cut=finish_reason in CUT_FINISH_REASONS)
    gold = gold_number(ground_truth)
    if gold is None:
        return Score(
            reward=math.nan, extracted_answer=answer.canonical, method="gold_unparseable", correct_flexible=False
        )
    return Score(
        reward=float(answer.canonical == gold),
        extracted_answer=answer.canonical,
        method=answer.method,
        correct_flexible=last_number(cleaned.text) == gold,
    )


def gold_number(ground_truth: str) -> str | None:
    """Canonical text of a ground truth such as "18", "1,234", "$18" or "9*2=18\\n#### 18"; None if it is no number."""
    return read_value(ground_truth.rsplit("####", 1)[-1], "boxed").canonical


class Gsm8kScorer:
    """Scores every row of a shard as ``score_gsm8k`` does."""

    name = GSM8K_NAME
    version = GSM8K_VERSION

    def score_columns(self, rows: pl.DataFrame) -> pl.DataFrame:
        answers = find_answers(whole_completions(rows), rows["finish_reason"])
        truths = rows["ground_truth"]
        distinct = truths.drop_nulls().unique()
        golds = pl.DataFrame(
            {"ground_truth": distinct, "gold": pl.Series([gold_number(truth) for truth in distinct], dtype=pl.String)}
        )
        gold = pl.col("gold")
        is_right = (pl.col("extracted_answer") == gold).fill_null(False)
        return (
            answers.with_columns(truths.alias("ground_truth"))
            .join(golds, on="ground_truth", how="left", maintain_order="left")
            .select(
                reward=pl.when(gold.is_not_null()).then(is_right).cast(pl.Float32),
                extracted_answer="extracted_answer",
                extraction_method=pl.when(gold.is_null())
                .then(pl.lit("gold_unparseable"))
                .otherwise("extraction_method"),
                correct_flexible=(pl.col("flexible") == gold).fill_null(False),
            )
        )
