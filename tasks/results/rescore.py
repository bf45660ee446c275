"""Scores a run again, with another scorer or version, without generating.

New score files go to ``scores@SCORER-VERSION/`` beside the run's own ``scores/``. Nothing else in the run changes.
``changes.parquet`` in the new directory lists every rollout whose reward changed.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from tasks.errors import ConfigError
from tasks.files import publish_parquet
from tasks.records import RunPaths
from tasks.results.metrics import mean
from tasks.results.run_openings import find_openings
from tasks.scoring.score import Scorer
from tasks.scoring.score_shard import read_scorable, score_frame
from tasks.scoring.scorers import BUILT_IN, load_scorer
from tasks.storage.published import read_shard
from tasks.storage.run_files import known_shards, missing_shards

LISTED_CHANGES = 50
"""Most changes in a report; changes.parquet has all."""


@dataclass(frozen=True, kw_only=True)
class RewardChange:
    """One rollout whose reward differs. A reward is None for an error row or an unreadable ground truth."""

    rollout_id: str
    old_reward: float | None
    new_reward: float | None
    old_extracted: str | None
    new_extracted: str | None


@dataclass(frozen=True, kw_only=True)
class RescoreReport:
    """The changes after a run was scored again. Mean rewards are over all rows with a reward."""

    scorer: str
    scorer_version: str
    directory: Path
    shards: int
    rollouts: int
    """Rollouts scored again."""
    changed: int
    """Rollouts whose reward differs from the run's own score."""
    unscored: int
    """Rollouts without a score of the run to compare with."""
    old_mean_reward: float | None
    new_mean_reward: float | None
    changes: tuple[RewardChange, ...]


def rescore_run(run_dir: Path, scorer: str) -> RescoreReport:
    """Score every shard of the run at ``run_dir`` with ``scorer`` and compare with the run's own scores.

    Raises ConfigError when the run has no rollouts or the scorer is unknown.
    """
    loaded = load_scorer(scorer)
    paths = RunPaths(root=run_dir)
    indices = known_shards(run_dir, "rollouts")
    if not indices:
        raise ConfigError(f"{run_dir} has no rollouts to score. Give the directory of a run that has generated some")
    if missing := [name for name in missing_shards(run_dir) if name.startswith("rollouts")]:
        raise ConfigError(
            f"{run_dir} is not a finished run: {missing[0]} is missing ({len(missing)} in all). Run the command that "
            "made it again; it resumes"
        )
    directory = rescore_directory(run_dir, loaded)
    openings = find_openings(run_dir) if loaded.name in BUILT_IN else ()
    compared = []
    for index in indices:
        new = score_frame(read_scorable(paths.rollouts(index), openings), loaded)
        publish_parquet(new, directory / paths.scores(index).name)
        compared.append(_beside_old(new, paths.scores(index)))
    rows = pl.concat(compared)
    changes = rows.filter(pl.col("is_scored") & pl.col("old_reward").ne_missing(pl.col("new_reward"))).drop("is_scored")
    publish_parquet(changes, directory / "changes.parquet")
    return RescoreReport(
        scorer=loaded.name,
        scorer_version=loaded.version,
        directory=directory,
        shards=len(indices),
        rollouts=rows.height,
        changed=changes.height,
        unscored=rows.height - int(rows["is_scored"].sum()),
        old_mean_reward=mean(rows["old_reward"]),
        new_mean_reward=mean(rows["new_reward"]),
        changes=tuple(RewardChange(**row) for row in changes.head(LISTED_CHANGES).iter_rows(named=True)),
    )


def rescore_directory(run_dir: Path, scorer: Scorer) -> Path:
    """Return ``RUN/scores@NAME-VERSION``. Characters that do not belong in a file name become ``-``."""
    return run_dir / f"scores@{re.sub(r'[^A-Za-z0-9._-]+', '-', f'{scorer.name}-{scorer.version}')}"


def _beside_old(new: pl.DataFrame, old_path: Path) -> pl.DataFrame:
    columns = ["rollout_id", "reward", "extracted_answer"]
    old = read_shard(old_path, columns) if old_path.exists() else new.select(columns).clear()
    return (
        new.select("rollout_id", new_reward="reward", new_extracted="extracted_answer")
        .join(
            old.select("rollout_id", old_reward="reward", old_extracted="extracted_answer", is_scored=pl.lit(True)),
            on="rollout_id",
            how="left",
            maintain_order="left",
        )
        .select(
            "rollout_id",
            "old_reward",
            "new_reward",
            "old_extracted",
            "new_extracted",
            pl.col("is_scored").fill_null(False),
        )
    )
