"""The shards of a finished run, each rollout beside its score, one shard in memory at a time."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from tasks.errors import ConfigError
from tasks.manifest import missing_shards
from tasks.records import ROLLOUT_SCHEMA, SCORE_SCHEMA, RunPaths, shard_indices
from tasks.store import read_json


def check_scored(run_dir: Path) -> list[int]:
    """The shard indices of a finished and scored run. Raises ConfigError when a shard or its scores are missing."""
    indices = shard_indices(run_dir / "rollouts")
    if not indices or missing_shards(run_dir):
        raise ConfigError(f"{run_dir} is not a finished run. Run the command that made it again; it resumes")
    if missing := sorted({*indices} - {*shard_indices(run_dir / "scores")}):
        raise ConfigError(
            f"{run_dir} is not scored: {len(missing)} of {len(indices)} shards have no scores. "
            "Run the command that made it again; it scores without generating"
        )
    return indices


def scored_shards(
    run_dir: Path, columns: Sequence[str] | None = None, *, where: pl.Expr | None = None
) -> Iterator[tuple[int, pl.DataFrame]]:
    """Every shard in order: ROLLOUT_SCHEMA and SCORE_SCHEMA joined, or the named columns; only rows with ``where``.

    Raises ConfigError for a run that is not finished and scored, or a shard that cannot be read.
    """
    paths = RunPaths(root=run_dir)
    for index in check_scored(run_dir):
        scores = pl.scan_parquet(paths.scores(index))
        frame = pl.scan_parquet(paths.rollouts(index)).join(scores, on="rollout_id", how="left", maintain_order="left")
        if where is not None:
            frame = frame.filter(where)
        if columns is not None:
            frame = frame.select(columns)
        try:
            yield index, frame.collect()
        except (pl.exceptions.PolarsError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(f"shard {index} of {run_dir} cannot be read: {reason}. Restore it") from error


SCORED_COLUMNS = (*ROLLOUT_SCHEMA, *(name for name in SCORE_SCHEMA if name != "rollout_id"))
"""Columns of a scored shard, in order."""


def run_config(run_dir: Path) -> dict[str, Any]:
    """config.json of the run, or an empty mapping."""
    config = read_json(run_dir / "config.json")
    return config if isinstance(config, dict) else {}
