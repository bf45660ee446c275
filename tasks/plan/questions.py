"""Load the questions of a dataset in one schema, and find every bad row before an engine starts.

A dataset is refused if a row is ambiguous or has a wrong type: a repeated id, a missing column, a question that is not
text, or an answer that is not text or a number. A guess would go unnoticed. A row without a usable answer is refused
too, since it cannot be scored. An empty question stays, and its rollouts become error rows. Questions that repeat under
different ids are only counted.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from profiles.load import short_repr
from tasks.errors import ConfigError
from tasks.plan.dataset_rows import open_rows
from tasks.plan.row_filter import RowFilter, parse_filters
from tasks.plan.run_config import DatasetSource
from tasks.records import QUESTION_SCHEMA
from tasks.scoring.custom_scorer import CustomScorer
from tasks.scoring.score import Scorer
from tasks.scoring.scorer_calls import ROW, check_row

_GROUPED_NUMBER = re.compile(r"[-+]?\$?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?")


@dataclass(frozen=True, kw_only=True)
class MoreColumns:
    """Further columns of the dataset, for a scorer of the user."""

    scorer: str
    needed: tuple[str, ...]
    wanted: tuple[str, ...] | None
    """None for all."""

    @classmethod
    def of(cls, scorer: Scorer) -> "MoreColumns | None":
        """Return what ``scorer`` asks for; None when it needs nothing but the questions."""
        if not isinstance(scorer, CustomScorer):
            return None
        needed, wanted = scorer.dataset_columns
        if wanted == []:
            return None
        return cls(scorer=scorer.source.given, needed=tuple(needed), wanted=None if wanted is None else tuple(wanted))


def load_questions(source: DatasetSource, more: MoreColumns | None = None) -> pl.DataFrame:
    """Return the questions of ``source`` that pass its filters, in QUESTION_SCHEMA, in dataset or shuffled order.

    With ``more``, the column ``row`` has the columns of the dataset that a scorer asks for, as JSON.
    An id made from a row number counts the rows of the unfiltered dataset. Raises ConfigError for a missing file, split
    or column, a repeated id, or an unusable row.
    """
    filters = parse_filters(source.filters)
    # a shuffled draw needs all questions
    most = source.questions if source.shuffle_seed is None else None
    example_ids: list[str] = []
    questions: list[str] = []
    truths: list[str] = []
    rows: list[str] = []
    seen: dict[str, int] = {}
    index = -1
    for index, row in enumerate(open_rows(source)):
        if len(example_ids) == most:
            break
        if index == 0:
            _check_columns(row, source, filters)
            if more is not None:
                check_row(row, more.needed, more.scorer, source.path)
        if not all(wanted.passes(row) for wanted in filters):
            continue
        example_id = _example_id(row, index, source)
        if example_id in seen:
            raise ConfigError(
                f"dataset {source.path}: rows {seen[example_id]} and {index} share the id {example_id!r}; ids must be "
                "unique. Fix the rows, or choose another id_column"
            )
        seen[example_id] = index
        example_ids.append(example_id)
        questions.append(_text(row, source.question_column, index, source))
        truths.append(_truth(row, index, source))
        if more is not None:
            kept = {str(name): value for name, value in row.items() if more.wanted is None or name in more.wanted}
            rows.append(json.dumps(kept, default=str))
    if index < 0:
        raise ConfigError(f"dataset {source.path} has no rows in split {source.split!r}. Give a split that has rows")
    if not example_ids:
        raise ConfigError(f"none of the {index + 1} rows of {source.path} passes {' and '.join(source.filters)}")
    texts = {"example_id": example_ids, "question": questions, "ground_truth": truths}
    frame = pl.DataFrame(texts, schema=QUESTION_SCHEMA)
    if more is not None:
        frame = frame.with_columns(pl.Series(ROW, rows, pl.String))
    return (
        frame
        if source.shuffle_seed is None
        else shuffled(frame, source.shuffle_seed).head(source.questions or frame.height)
    )


def shuffled(questions: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Return ``questions`` in the order of a hash of seed and id.

    The order is the same on every machine, and the start of the list does not depend on how many questions are taken.
    """
    order = [hashlib.blake2b(f"{seed}\x1f{name}".encode(), digest_size=8).digest() for name in questions["example_id"]]
    return questions.with_columns(order=pl.Series(order, dtype=pl.Binary)).sort("order").drop("order")


def ground_truth(answer: str) -> str:
    """Return the answer to compare completions with: the text after the last ``####``, or all of ``answer``.

    Commas are removed only from a single grouped number: in "(3,4)" and "1, 2" they separate values that other scorers
    compare. The form is GSM8K's (Cobbe et al. 2021, https://arxiv.org/abs/2110.14168).
    """
    truth = answer.rsplit("####", 1)[-1].strip()
    is_one_number = _GROUPED_NUMBER.fullmatch(truth) is not None
    return truth.replace(",", "") if is_one_number or not truth.strip(", ") else truth  # only commas: no answer


def _check_columns(row: Mapping[str, Any], source: DatasetSource, filters: list[RowFilter]) -> None:
    wanted = [("question_column", source.question_column), ("answer_column", source.answer_column)]
    if source.id_column is not None:
        wanted.append(("id_column", source.id_column))
    wanted += [("filter", item.column) for item in filters]
    for setting, column in wanted:
        if column not in row:
            raise ConfigError(
                f"dataset {source.path} has no column {column!r}; it has {', '.join(map(repr, row))}. Set {setting}"
            )


def _example_id(row: Mapping[str, Any], index: int, source: DatasetSource) -> str:
    if source.path == "demo":
        return str(row["id"])
    if source.id_column is None:
        return f"{source.split}-{index:06d}"
    value = row.get(source.id_column)
    if not isinstance(value, str | int) or isinstance(value, bool) or str(value).strip() == "":
        raise ConfigError(
            f"dataset {source.path} row {index}: id column {source.id_column!r} is {short_repr(value)}; it must be "
            "text or an integer"
        )
    return str(value)


def _text(row: Mapping[str, Any], column: str, index: int, source: DatasetSource) -> str:
    value = _cell(row, column, index, source)
    if value is None or isinstance(value, str):
        return (value or "").strip()
    raise ConfigError(
        f"dataset {source.path} row {index}: {column!r} is {short_repr(value)} ({type(value).__name__}); it must be "
        "text. Fix or remove the row"
    )


def _truth(row: Mapping[str, Any], index: int, source: DatasetSource) -> str:
    value = _cell(row, source.answer_column, index, source)
    if (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and math.isfinite(value)):
        return ground_truth(str(value))
    if isinstance(value, str) and (truth := ground_truth(value)):
        return truth
    raise ConfigError(
        f"dataset {source.path} row {index}: {source.answer_column!r} is {short_repr(value)}; it must be a number or "
        "text, with a value after its last '####' if it has one. Fix or remove the row"
    )


def _cell(row: Mapping[str, Any], column: str, index: int, source: DatasetSource) -> Any:
    # lines of a JSON file may have different columns; a missing column is not an empty question
    if column not in row:
        raise ConfigError(
            f"dataset {source.path} row {index} has no {column!r}; it has {', '.join(map(repr, row))}. "
            "Fix or remove the row"
        )
    return row[column]


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """Counts of questions that have the same text, apart from case and spacing.

    ``repeated`` counts questions beyond the first of each text, ``conflicting`` texts with more than one ground truth.
    ``example`` has two ids of the same text, or is None.
    """

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
    """Return the duplicates among ``questions``, a frame in QUESTION_SCHEMA."""
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
