"""Reads the rollouts of a finished run with their scores, one shard in memory at a time."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from tasks.errors import ConfigError
from tasks.locks import what_finishes
from tasks.records import LATER_ROLLOUT_COLUMNS, OWN_SCORES, ROLLOUT_SCHEMA, SCORE_SCHEMA, RunPaths
from tasks.results.group_pass_rates import wave_plan_of, weigh
from tasks.results.metrics import is_repetitive
from tasks.results.run_state import run_state
from tasks.storage.published import scan_shard
from tasks.storage.run_files import known_shards, known_waves, missing_shards
from tasks.storage.score_sets import right_at


def scored_rollout_columns(run_dir: Path, scores: str = OWN_SCORES) -> tuple[str, ...]:
    """Return the columns of the run's scored shards, in order. Raises ConfigError as ``check_scored`` does."""
    index = check_scored(run_dir, scores)[0]
    paths = RunPaths(root=run_dir, scores_folder=scores)
    first = scan_shard(paths.rollouts(index)).collect_schema()
    later = [name for name in LATER_ROLLOUT_COLUMNS if name in first]
    of_scores = scan_shard(paths.scores(index)).collect_schema()
    return (*ROLLOUT_SCHEMA, *later, *(name for name in of_scores if name != "rollout_id"))


def check_scored(run_dir: Path, scores: str = OWN_SCORES) -> list[int]:
    """Return the shard indices of a finished run that is scored, in the folder ``scores``.

    Raises ConfigError when a shard or its scores are missing.
    """
    indices = [*known_shards(run_dir, "rollouts")]
    if not indices or missing_shards(run_dir):
        state = run_state(run_dir)
        told = state.name if state.holder else state
        raise ConfigError(f"{run_dir} is not a finished run: it is {told}. {what_finishes(run_dir)}")
    waves = known_waves(run_dir, "rollouts")
    if missing := waves.keys() - known_waves(run_dir, scores).keys():
        raise ConfigError(
            f"{run_dir} is not scored: {len(missing)} of {len(waves)} shards have no scores. {what_finishes(run_dir)}"
        )
    return indices


def scored_shards(
    run_dir: Path,
    columns: Sequence[str] | None = None,
    *,
    where: pl.Expr | None = None,
    scores: str = OWN_SCORES,
) -> Iterator[tuple[int, pl.DataFrame]]:
    """Yield every shard in order, as (index, rows with all columns of a rollout and its score).

    ``columns`` selects some of the columns, ``where`` some of the rows, ``scores`` the folder of the
    scores. Raises ConfigError when the run is not finished and scored, or a shard cannot be read.
    """
    paths = RunPaths(root=run_dir, scores_folder=scores)
    for index in check_scored(run_dir, scores):
        scored = scan_shard(paths.scores(index))
        frame = scan_shard(paths.rollouts(index)).join(scored, on="rollout_id", how="left", maintain_order="left")
        if where is not None:
            frame = frame.filter(where)
        if columns is not None:
            frame = frame.select(columns)
        try:
            yield index, frame.collect()
        except (pl.exceptions.PolarsError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(f"shard {index} of {run_dir} cannot be read: {reason}. Restore it") from error


_METRIC_SCORES = [name for name in SCORE_SCHEMA if name not in ("scorer", "scorer_version")]


def load_metric_rows(paths: RunPaths, *, repetition: bool = False) -> pl.DataFrame:
    """Return the columns that metrics need of all rollouts and their scores: no prompts, texts or token lists.

    ``repetition`` adds the column ``is_repetitive``. It is made from the texts, one shard at a time. A run with a
    stopping rule has the columns of ``group_pass_rates.weigh``.
    """
    columns = [
        pl.col(
            "rollout_id",
            "example_id",
            "arm_id",
            "sample_index",
            "is_truncated",
            "error",
            "num_completion_tokens",
            "question_batch_size",
            "max_num_seqs",
            "oom_rung",
        ),
        *([is_repetitive(pl.col("completion")).alias("is_repetitive")] if repetition else []),
    ]
    rows = pl.concat(
        scan_shard(paths.rollouts(index))
        .select(columns)
        .join(
            scan_shard(paths.scores(index)).select(_METRIC_SCORES),
            on="rollout_id",
            how="left",
            maintain_order="left",
        )
        .collect()
        for index in known_shards(paths.root, "rollouts")
    )
    return weigh(rows, wave_plan_of(paths.root), right_at(paths.root, paths.scores_folder))
