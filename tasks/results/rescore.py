"""Scores a run again, with another scorer or version, without generating.

New score files go to the set of scores ``scores@SCORER-VERSION/`` beside the run's own ``scores/``. Nothing else in the
run changes.
``changes.parquet`` in the new directory lists every rollout whose reward changed.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from tasks.errors import ConfigError
from tasks.files import publish_parquet
from tasks.locks import run_lock, what_finishes
from tasks.plan.questions import MoreColumns, load_questions
from tasks.plan.run_config import DatasetSource
from tasks.plan.shards import dataset_rows, scores_made_from
from tasks.records import RunPaths, wave_of
from tasks.results.finished_run import read_config
from tasks.results.group_pass_rates import wave_plan_of
from tasks.results.metrics import mean
from tasks.results.run_openings import find_openings
from tasks.scoring.extra_columns import align_extra_columns
from tasks.scoring.score import Scorer
from tasks.scoring.score_shard import in_run, read_scorable, score_frame
from tasks.scoring.scorer_process import kept_processes
from tasks.scoring.scorers import BUILT_IN, load_scorer
from tasks.storage.published import forget_published, read_wave, record_published
from tasks.storage.run_files import known_waves, missing_shards
from tasks.storage.score_sets import ScoreSet, publish_set, set_folder

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
    """The changes after a run was scored again.

    Mean rewards are over the rows with a reward; where groups stopped by a rule, over those of the first wave.
    """

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
    has_rule: bool = False
    """Whether groups stopped by a rule."""


def rescore_run(run_dir: Path, scorer: str, right_at: float | None = None) -> RescoreReport:
    """Score every shard of the run at ``run_dir`` with ``scorer`` and compare with the run's own scores.

    ``right_at`` is the reward from which a rollout counts as right in the new set; None: as in the run. Raises
    ConfigError when the run has no rollouts, the scorer is unknown or ``right_at`` is no finite number, and RunLocked
    when another process works on the run.
    """
    if right_at is not None and not math.isfinite(right_at):
        raise ConfigError(f"--right-at is {right_at}: input should be a finite number")
    loaded = load_scorer(scorer)
    paths = RunPaths(root=run_dir)
    indices = known_waves(run_dir, "rollouts")
    if not indices:
        raise ConfigError(f"{run_dir} has no rollouts to score. {what_finishes(run_dir)}")
    if missing := [name for name in missing_shards(run_dir) if name.startswith("rollouts")]:
        raise ConfigError(
            f"{run_dir} is not a finished run: {missing[0]} is missing ({len(missing)} in all). "
            f"{what_finishes(run_dir)}"
        )
    with run_lock(paths.state / "lock", work="harvest score"), kept_processes():
        return _rescore(paths, indices, loaded, ScoreSet(scorer=scorer, right_at=right_at))


def _rescore(paths: RunPaths, indices: Collection[int], loaded: Scorer, asked: ScoreSet) -> RescoreReport:
    run_dir = paths.root
    made = RunPaths(root=run_dir, scores_folder=set_folder(loaded.name, loaded.version))
    directory = run_dir / made.scores_folder
    dataset = _dataset_rows(run_dir, loaded)
    openings = find_openings(run_dir) if loaded.name in BUILT_IN else ()
    compared = []
    for index in indices:
        rollouts = paths.rollouts(index)
        new = score_frame(read_scorable(rollouts, openings, loaded, dataset), in_run(loaded, run_dir, rollouts))
        forget_published(made.scores(index))
        publish_parquet(new, made.scores(index))
        record_published(made.scores(index), made_from=scores_made_from(made, index, loaded))
        compared.append(_beside_old(new, paths.scores(index)))
    align_extra_columns(made.scores(index) for index in indices)
    publish_set(run_dir, made.scores_folder, asked)
    rows = pl.concat(compared)
    # nothing selected the samples of the first wave by their rewards
    first = pl.concat(each for index, each in zip(indices, compared, strict=True) if not wave_of(index))
    changes = rows.filter(pl.col("is_scored") & pl.col("old_reward").ne_missing(pl.col("new_reward"))).drop("is_scored")
    publish_parquet(changes, directory / "changes.parquet")
    return RescoreReport(
        scorer=loaded.name,
        scorer_version=loaded.version,
        directory=directory,
        shards=sum(not wave_of(index) for index in indices),
        rollouts=rows.height,
        changed=changes.height,
        unscored=rows.height - int(rows["is_scored"].sum()),
        old_mean_reward=mean(first["old_reward"]),
        new_mean_reward=mean(first["new_reward"]),
        changes=tuple(RewardChange(**row) for row in changes.head(LISTED_CHANGES).iter_rows(named=True)),
        has_rule=wave_plan_of(run_dir).rule is not None,
    )


def _dataset_rows(run_dir: Path, scorer: Scorer) -> pl.DataFrame | None:
    """Return the columns of the run's dataset that ``scorer`` asks for, from the dataset itself."""
    if (more := MoreColumns.of(scorer)) is None:
        return None
    config = read_config(run_dir).get("config", {}).get("dataset")
    if not isinstance(config, dict):
        # a run of which this is not known; a column that must be there is None
        return None
    return dataset_rows(load_questions(DatasetSource.model_validate(config), more))


def _beside_old(new: pl.DataFrame, old_path: Path) -> pl.DataFrame:
    columns = ["rollout_id", "reward", "extracted_answer"]
    old = read_wave(old_path, columns) if old_path.exists() else new.select(columns).clear()
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
