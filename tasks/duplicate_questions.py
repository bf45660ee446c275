"""Questions that a dataset holds more than once under different ids."""

from dataclasses import dataclass

import polars as pl


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """``repeated`` counts questions beyond the first of each text, whatever their case and spacing; ``conflicting``
    counts texts that have more than one ground truth. ``example`` names two ids of one text, if there are any."""

    repeated: int
    conflicting: int
    example: tuple[str, str] | None

    def __str__(self) -> str:
        if self.example is None:
            return "no question occurs twice"
        conflict = f", {self.conflicting} of the texts with different ground truths" if self.conflicting else ""
        first, second = self.example
        return f"{self.repeated} questions repeat an earlier one{conflict}; such as {first} and {second}"


def find_duplicates(questions: pl.DataFrame) -> Duplicates:
    """Count duplicates among ``questions``, in QUESTION_SCHEMA."""
    same = pl.col("question").str.replace_all(r"\s+", " ").str.strip_chars().str.to_lowercase()
    groups = (
        questions.lazy()
        .group_by(same.hash().alias("same"), maintain_order=True)
        .agg(pl.len(), pl.col("ground_truth").n_unique().alias("truths"), pl.col("example_id").head(2))
        .filter(pl.col("len") > 1)
        .collect()
    )
    if groups.is_empty():
        return Duplicates(repeated=0, conflicting=0, example=None)
    first, second = groups["example_id"][0]
    return Duplicates(
        repeated=int(groups["len"].sum()) - groups.height,
        conflicting=int((groups["truths"] > 1).sum()),
        example=(first, second),
    )
