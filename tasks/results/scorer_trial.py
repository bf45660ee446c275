"""Tries a scorer on texts whose worth is known: ground truths in several forms, wrong answers, no answer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from tasks.errors import ConfigError
from tasks.plan.questions import MoreColumns, load_questions
from tasks.plan.run_config import DatasetSource
from tasks.records import SCORE_SCHEMA
from tasks.results.finished_run import read_config
from tasks.scoring.score_shard import score_frame
from tasks.scoring.scorers import load_scorer

QUESTIONS = 3
_TEXTS = (
    ("the ground truth alone", "{truth}", "stop", True),
    ("after ####", "So it is {truth}.\n#### {truth}", "stop", True),
    ("in \\boxed{}", "So it is \\boxed{{{truth}}}.", "stop", True),
    ("another number", "#### 987654321", "stop", False),
    ("no answer", "I do not know.", "stop", False),
    ("nothing", "", "stop", False),
    ("cut off", "First we add the two num", "length", False),
)


@dataclass(frozen=True, kw_only=True)
class TriedText:
    """What a scorer gave for one text. ``extra`` has the columns that it adds."""

    example_id: str
    kind: str
    is_gold: bool
    """The text gives the ground truth as its answer."""
    completion: str
    reward: float | None
    extracted_answer: str | None
    method: str
    extra: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ScorerTrial:
    """The texts of a few questions, scored."""

    scorer: str
    version: str
    texts: tuple[TriedText, ...]


def try_scorer(scorer: str, run_dir: Path | None = None) -> ScorerTrial:
    """Score texts for a few questions of the run's dataset, or of the demo's, and write nothing.

    Raises ConfigError when the scorer cannot be loaded or fails on every text, with the line that it failed at.
    """
    loaded = load_scorer(scorer)
    dataset = read_config(run_dir).get("config", {}).get("dataset") if run_dir else {}
    if not isinstance(dataset, dict):
        raise ConfigError(f"the config.json of {run_dir} names no dataset. Try the scorer without a run")
    source = DatasetSource.model_validate({**dataset, "questions": QUESTIONS})
    try:
        questions = load_questions(source, MoreColumns.of(loaded))
    except ConfigError as error:
        if run_dir is not None:
            raise
        raise ConfigError(f"{error}. For your own dataset name a run of it: harvest score RUN --dry-run S") from None
    kinds = pl.DataFrame(_TEXTS, schema=["kind", "text", "finish_reason", "is_gold"], orient="row")
    rows = questions.join(kinds, how="cross").with_row_index("number")
    completions = [text.format(truth=truth) for text, truth in rows.select("text", "ground_truth").iter_rows()]
    rows = rows.with_columns(
        pl.Series("completion", completions, pl.String),
        rollout_id=pl.format("text-{}", "number"),
        arm_id=pl.lit("trial"),
        sample_index=pl.lit(0),
        prompt=pl.concat_list(pl.struct(role=pl.lit("user"), content="question")),
        completion_ids=pl.lit([], pl.List(pl.Int32)),
    )
    scores = score_frame(rows, loaded)
    extra = [name for name in scores.columns if name not in SCORE_SCHEMA]
    return ScorerTrial(
        scorer=loaded.name,
        version=loaded.version,
        texts=tuple(
            TriedText(
                example_id=row["example_id"],
                kind=row["kind"],
                is_gold=row["is_gold"],
                completion=row["completion"],
                reward=score["reward"],
                extracted_answer=score["extracted_answer"],
                method=score["extraction_method"],
                extra={name: score[name] for name in extra},
            )
            for row, score in zip(rows.iter_rows(named=True), scores.iter_rows(named=True), strict=True)
        ),
    )
