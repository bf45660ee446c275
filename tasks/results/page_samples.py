"""Chooses the rollouts that the report page shows: a few of every arm and outcome, and questions under every arm."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import polars as pl

from tasks.plain_text import one_line, plain_number, shortened, visible
from tasks.records import OWN_SCORES, SCORE_SCHEMA, RunPaths
from tasks.results.finished_run import read_config
from tasks.results.token_tints import Piece, find_tokenizer, pieces_of
from tasks.scoring.score import is_right
from tasks.storage.published import scan_shard
from tasks.storage.run_files import known_shards
from tasks.storage.score_sets import right_at

Kind = Literal["right", "wrong", "truncated", "error", "not scored"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MOST = 2
"""Of each arm and outcome."""
MOST_SAMPLES = 120
MOST_QUESTIONS = 8
MOST_SIDES = 120
"""Rollouts of all questions that are shown under every arm."""
TEXT_CHARACTERS = 1_500
_VALUE_CHARACTERS = 200
_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One rollout; its texts are shortened, and their control characters made visible."""

    kind: Kind
    arm_id: str
    example_id: str
    sample_index: int
    question: str
    prompt: tuple[tuple[str, str], ...]
    completion: tuple[Piece, ...]
    """Of an error row the error."""
    reward: float | None
    extracted_answer: str | None
    extraction_method: str | None
    ground_truth: str | None
    tokens: int
    extra: tuple[tuple[str, str], ...]
    """What else the scorer stored, by name."""


@dataclass(frozen=True, kw_only=True)
class QuestionSides:
    """One question with a rollout of each arm."""

    example_id: str
    question: str
    ground_truth: str | None
    sides: tuple[Sample, ...]


@dataclass(frozen=True, kw_only=True)
class Samples:
    drawn: tuple[Sample, ...]
    questions: tuple[QuestionSides, ...]
    tinted: bool
    """Whether the model's tokenizer was there to tell the tokens apart."""


def kind_of(right: float) -> pl.Expr:
    """Return the outcome of a rollout, from the columns ``error``, ``is_truncated`` and ``reward``.

    ``right`` is the reward from which on it is right.
    """
    return (
        pl.when(pl.col("error").is_not_null())
        .then(pl.lit("error"))
        .when(pl.col("is_truncated"))
        .then(pl.lit("truncated"))
        .when(is_right("reward", right))
        .then(pl.lit("right"))
        .when(pl.col("reward").is_not_null())
        .then(pl.lit("wrong"))
        .otherwise(pl.lit("not scored"))
    )


def pick_samples(run_dir: Path, rows: pl.DataFrame, *, most: int = MOST, scores: str = OWN_SCORES) -> Samples:
    """Return rollouts drawn at random, the same each time, and the questions on which the arms differ most.

    ``rows`` has ``rollout_id``, ``example_id``, ``arm_id``, ``sample_index``, ``reward``, ``is_truncated``, ``error``;
    the texts are read from the run. ``scores`` is the folder of the scores.
    """
    rows = rows.select(
        "rollout_id",
        "example_id",
        "arm_id",
        "sample_index",
        "reward",
        kind_of(right_at(run_dir, scores)).alias("kind"),
        pl.col("rollout_id").hash(seed=_SEED).alias("draw"),
    )
    drawn, sides = _drawn(rows, most), _sides(rows)
    samples = read_samples(run_dir, pl.concat([drawn, sides]).unique(), scores=scores)
    by_id = {(sample.example_id, sample.arm_id, sample.sample_index): sample for sample in samples.drawn}
    keys = ("example_id", "arm_id", "sample_index")
    return Samples(
        drawn=tuple(by_id[key] for key in drawn.sort("arm_id", "kind", "rollout_id").select(keys).iter_rows()),
        questions=tuple(
            in_sides([by_id[key] for key in group.sort("arm_id").select(keys).iter_rows()])
            for group in sides.partition_by("example_id", maintain_order=True)
        ),
        tinted=samples.tinted,
    )


def in_sides(samples: list[Sample]) -> QuestionSides:
    """Return the rollouts of one question, of which there is one at least, beside each other."""
    first = samples[0]
    return QuestionSides(
        example_id=first.example_id, question=first.question, ground_truth=first.ground_truth, sides=tuple(samples)
    )


def _drawn(rows: pl.DataFrame, most: int) -> pl.DataFrame:
    ranked = rows.sort("draw").with_columns(rank=pl.int_range(pl.len()).over("arm_id", "kind"))
    # where there are many arms, each has one before any has two
    return ranked.filter(pl.col("rank") < most).sort("rank", "draw").head(MOST_SAMPLES).select(rows.columns)


def _sides(rows: pl.DataFrame) -> pl.DataFrame:
    """Return one rollout per arm of the chosen questions, those on which the arms differ most first."""
    arms = rows["arm_id"].n_unique()
    if arms < 2:
        return rows.clear()
    means = rows.group_by("example_id", "arm_id").agg(pl.col("reward").mean())
    apart = (
        means.group_by("example_id")
        .agg((pl.col("reward").max() - pl.col("reward").min()).fill_null(-1.0).alias("apart"))
        .with_columns(pl.col("example_id").hash(seed=_SEED).alias("order"))
        .sort("apart", "order", descending=[True, False])
        .head(max(1, min(MOST_QUESTIONS, MOST_SIDES // arms)))
    )
    firsts = rows.sort("sample_index").group_by("example_id", "arm_id", maintain_order=True).first()
    return apart.join(firsts, on="example_id", maintain_order="left").select(rows.columns)


def read_samples(
    run_dir: Path, chosen: pl.DataFrame, *, shards: Iterable[int] | None = None, scores: str = OWN_SCORES
) -> Samples:
    """Return the rollouts of ``chosen``, which has ``rollout_id`` and ``kind``, with their texts.

    They are in the order of the run. ``shards`` are those that they are in, if that is known.
    """
    wanted = chosen.lazy().select("rollout_id", "kind")
    paths = RunPaths(root=run_dir, scores_folder=scores)
    questions = known_shards(run_dir, "questions")
    tokenizer = find_tokenizer(str((read_config(run_dir).get("model") or {}).get("path") or ""))
    samples: list[Sample] = []
    # one shard at a time: a scan over all shards would hold every text of the run at once
    for index in known_shards(run_dir, "rollouts") if shards is None else shards:
        frame = (
            scan_shard(paths.rollouts(index))
            .select(
                "rollout_id",
                "example_id",
                "arm_id",
                "sample_index",
                "prompt",
                "completion",
                "completion_ids",
                "logprobs",
                "error",
                "ground_truth",
                "num_completion_tokens",
            )
            .filter(pl.col("rollout_id").is_in(chosen["rollout_id"].implode()))
            .join(wanted, on="rollout_id", how="inner", maintain_order="left")
        )
        if paths.scores(index).exists():
            frame = frame.join(scan_shard(paths.scores(index)), on="rollout_id", how="left", maintain_order="left")
        if index in questions:
            asked = scan_shard(paths.questions(index)).select("example_id", "question").unique("example_id")
            frame = frame.join(asked, on="example_id", how="left", maintain_order="left", suffix="_asked")
        samples += [_sample(row, tokenizer) for row in frame.collect().iter_rows(named=True)]
    return Samples(drawn=tuple(samples), questions=(), tinted=tokenizer is not None)


_SHOWN = {
    *("rollout_id", "example_id", "arm_id", "sample_index", "prompt", "completion", "completion_ids", "logprobs"),
    *("error", "ground_truth", "num_completion_tokens", "kind", "question"),
    *SCORE_SCHEMA,
}


def _sample(row: dict[str, Any], tokenizer: Any) -> Sample:
    messages = row["prompt"] or []
    is_error = row["kind"] == "error"
    tokens = ((), ()) if is_error else (row["completion_ids"] or (), row["logprobs"] or ())
    return Sample(
        kind=row["kind"],
        arm_id=row["arm_id"],
        example_id=row["example_id"],
        sample_index=row["sample_index"],
        question=_text(row.get("question") or (messages[-1]["content"] if messages else "")),
        prompt=tuple((one_line(item["role"] or "", 20), _text(item["content"])) for item in messages),
        completion=pieces_of(
            (row["error"] if is_error else row["completion"]) or "", *tokens, tokenizer, TEXT_CHARACTERS
        ),
        reward=row.get("reward"),
        extracted_answer=_value(row.get("extracted_answer")),
        extraction_method=_value(row.get("extraction_method")),
        ground_truth=_value(row["ground_truth"]),
        tokens=row["num_completion_tokens"],
        extra=tuple(
            (one_line(name, 60), one_line(str(plain_number(value)), _VALUE_CHARACTERS))
            for name, value in row.items()
            if name not in _SHOWN and value is not None
        ),
    )


def _value(value: str | None) -> str | None:
    return None if value is None else one_line(value, 80)


def _text(value: str | None) -> str:
    # names of control characters are long
    return shortened(visible(shortened(value or "", TEXT_CHARACTERS)), 2 * TEXT_CHARACTERS)
