"""Scores a shard: reads completions and ground truths, and writes rewards."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from tasks.files import publish_parquet
from tasks.records import SCORE_SCHEMA, first_file
from tasks.scoring.custom_scorer import CustomScorer
from tasks.scoring.gsm8k_gold_suspects import suspect_flags
from tasks.scoring.gsm8k_scorer import GSM8K_NAME, Gsm8kScorer
from tasks.scoring.opening_column import add_openings, read_openings
from tasks.scoring.reasoning_opening import ReasoningOpening
from tasks.scoring.score import SCORER_OUTPUT, Scorer
from tasks.scoring.scorers import load_scorer
from tasks.storage.published import read_wave


def score_frame(rollouts: pl.DataFrame, scorer: Scorer | None = None) -> pl.DataFrame:
    """Scores in SCORE_SCHEMA, one row per rollout in order, with the columns that the scorer adds.

    The strict GSM8K scorer is the default.

    ``rollouts`` has ``rollout_id``, ``completion``, ``ground_truth`` and ``finish_reason``. It may have ``error``: a
    row with an error gets a null reward and method ``error``. It may have ``question``: without it no gold is flagged
    as suspect. It may have ``opening``, as ``Scorer`` says.
    """
    scorer = scorer or Gsm8kScorer()
    failed = pl.col("completion").is_null()
    if "error" in rollouts.columns:
        failed |= pl.col("error").is_not_null()
    is_failed = rollouts.select(failed.alias("is_failed"))["is_failed"]
    scored = scorer.score_columns(rollouts.filter(~is_failed))
    extra = [name for name in scored.columns if name not in SCORER_OUTPUT]
    scored = scored.select(*(pl.col(name).cast(kind) for name, kind in SCORER_OUTPUT.items()), *extra)
    if is_failed.any():
        scored = _with_errors(scored, is_failed)
    suspects = suspect_flags(rollouts["question"]) if "question" in rollouts.columns else pl.lit(False)
    return scored.with_columns(
        rollouts["rollout_id"],
        suspects.alias("gold_suspect"),
        scorer=pl.lit(scorer.name),
        scorer_version=pl.lit(scorer.version),
    ).select(*(pl.col(name).cast(kind) for name, kind in SCORE_SCHEMA.items()), *extra)


def _with_errors(scored: pl.DataFrame, is_failed: pl.Series) -> pl.DataFrame:
    """Return the rows of ``scored``, and one without a reward at each place where ``is_failed`` is true."""
    errors = pl.DataFrame(
        {"reward": None, "extracted_answer": None, "extraction_method": "error", "correct_flexible": False},
        schema=SCORER_OUTPUT,
    ).select(pl.all().repeat_by(int(is_failed.sum())).explode())
    # not by a column, whose name may be that of one of the scorer's
    order = pl.concat([(~is_failed).arg_true(), is_failed.arg_true()]).arg_sort()
    return pl.concat([scored, errors], how="diagonal")[order]


def score_shard(
    rollouts_path: Path, scores_path: Path, scorer: str = GSM8K_NAME, dataset: pl.DataFrame | None = None
) -> pl.DataFrame:
    """Score one file of rollouts, publish the scores at ``scores_path``, and return them.

    The shard's questions are read from ``../questions`` when they exist; they tell the suspect golds. ``dataset`` has
    ``example_id`` and ``row``, the columns of the dataset that the scorer asks for, as JSON.
    """
    run_dir = rollouts_path.parent.parent
    openings = read_openings(run_dir) or ()
    loaded = in_run(load_scorer(scorer), run_dir, rollouts_path)
    scores = score_frame(read_scorable(rollouts_path, openings, loaded, dataset), loaded)
    publish_parquet(scores, scores_path)
    return scores


def describe_scores(scores: pl.DataFrame) -> str:
    """Return the number of rollouts in a shard's scores and their mean reward, such as "800 rollouts, reward 0.78"."""
    rewards = scores["reward"]
    scored = rewards.drop_nulls().cast(pl.Float64)
    mean = f", reward {scored.sum() / len(scored):.2f}" if len(scored) else ""
    unscored = f", {rewards.null_count():,} without a reward" if rewards.null_count() else ""
    return f"{len(rewards):,} rollouts{mean}{unscored}"


def in_run(scorer: Scorer, run_dir: Path, rollouts_path: Path | None = None) -> Scorer:
    """Return ``scorer`` for a run: one of the user may keep there what it need not ask twice.

    It may fail on all rollouts of a later wave: a question on whose rollouts it fails is one that gets more of them.
    """
    if not isinstance(scorer, CustomScorer):
        return scorer
    is_later = rollouts_path is not None and first_file(rollouts_path.name) != rollouts_path.name
    return replace(scorer, state=run_dir / "state", may_fail=is_later)


def read_scorable(
    rollouts_path: Path,
    openings: Sequence[ReasoningOpening] = (),
    scorer: Scorer | None = None,
    dataset: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """The columns of a rollouts file that ``scorer`` needs, with ``question`` when the shard's questions exist.

    With ``openings``, those of the run's prompts, there is also ``opening``, and with ``dataset`` also ``row``.
    """
    columns = ["rollout_id", "example_id", "completion", "ground_truth", "finish_reason", "error"]
    if isinstance(scorer, CustomScorer):
        columns = list(dict.fromkeys([*columns, *scorer.columns]))
    if openings:
        rollouts = add_openings(read_wave(rollouts_path, list(dict.fromkeys([*columns, "prompt_ids"]))), openings)
    else:
        rollouts = read_wave(rollouts_path, columns)
    if dataset is not None:
        rollouts = rollouts.join(dataset, on="example_id", how="left", maintain_order="left")
    questions_path = rollouts_path.parent.parent / "questions" / first_file(rollouts_path.name)
    if not questions_path.exists():
        return rollouts
    questions = read_wave(questions_path, ["example_id", "question"])
    return rollouts.join(questions, on="example_id", how="left", maintain_order="left")
