"""Filters the rollouts of a run for an export."""

import math
from dataclasses import dataclass, field

import polars as pl

from profiles.nearest import did_you_mean
from tasks.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ExportFilters:
    """The filters. They apply in the order of the fields, so ``max_per_group`` counts what the others left."""

    arms: tuple[str, ...] = ()
    """Only these arms; empty takes all."""
    include_errors: bool = False
    """Keep error rows, which have no completion and no reward."""
    drop_gold_suspects: bool = False
    """Leave out questions whose ground truth looks wrong, because their correct answers get no reward."""
    drop_zero_variance: bool = False
    """Leave out groups whose rewards are all equal, because their advantages are 0."""
    drop_truncated: bool = False
    """Leave out completions that max_tokens cut off."""
    min_reward: float | None = None
    """Smallest reward that passes. A rollout without a reward does not pass."""
    max_per_group: int | None = None
    """At most so many rollouts per group, the first ones in sample order."""


@dataclass(kw_only=True)
class DropCounts:
    """Counts the rollouts that were read, and those that each filter left out. A rollout counts for one filter only."""

    read: int = 0
    dropped: dict[str, int] = field(default_factory=dict)

    def add(self, reason: str, count: int) -> None:
        if count:
            self.dropped[reason] = self.dropped.get(reason, 0) + count


def check_filters(filters: ExportFilters, arms: list[str], samples: int) -> None:
    """Raise ConfigError for an unknown arm, or a filter that makes no sense for the run.

    ``arms`` are the run's arms. ``samples`` is its number of rollouts per group.
    """
    if unknown := sorted({*filters.arms} - {*arms}):
        raise ConfigError(
            f"the run has no arm {', '.join(map(repr, unknown))}; it has {', '.join(arms)}."
            f"{did_you_mean(unknown[0], arms)}"
        )
    if filters.max_per_group is not None and filters.max_per_group < 1:
        raise ConfigError(f"max_per_group is {filters.max_per_group}; it must be at least 1")
    if filters.min_reward is not None and not math.isfinite(filters.min_reward):
        raise ConfigError(f"min_reward is {filters.min_reward}; it must be a finite number")
    if filters.drop_zero_variance and samples < 2:
        raise ConfigError(
            "every group of this run has one rollout (samples_per_arm 1), so its rewards have no variance and all "
            "would be left out. Generate with samples_per_arm >= 2, or leave drop_zero_variance off"
        )


def apply_filters(rollouts: pl.DataFrame, filters: ExportFilters, counts: DropCounts) -> pl.DataFrame:
    """Return the rows of one shard that pass, in order, and update ``counts``. A group never spans shards."""
    counts.read += rollouts.height
    if filters.arms:
        rollouts = _keep(rollouts, pl.col("arm_id").is_in(filters.arms), "arm", counts)
    if not filters.include_errors:
        rollouts = _keep(rollouts, pl.col("error").is_null(), "error", counts)
    if filters.drop_gold_suspects:
        rollouts = _keep(rollouts, ~pl.col("gold_suspect"), "suspect ground truth", counts)
    if filters.drop_zero_variance:
        varied = pl.col("reward").min().over("group_id") < pl.col("reward").max().over("group_id")
        rollouts = _keep(rollouts, varied.fill_null(False), "zero variance", counts)
    if filters.drop_truncated:
        rollouts = _keep(rollouts, ~pl.col("is_truncated"), "truncated", counts)
    if filters.min_reward is not None:
        rollouts = _keep(rollouts, (pl.col("reward") >= filters.min_reward).fill_null(False), "reward", counts)
    if filters.max_per_group is not None:
        rank = pl.int_range(pl.len()).over("group_id")
        rollouts = _keep(rollouts, rank < filters.max_per_group, "more than max_per_group", counts)
    return rollouts


def keep_complete_groups(rollouts: pl.DataFrame, size: int, counts: DropCounts) -> pl.DataFrame:
    """Return only groups of exactly ``size`` rollouts, for trainers that split rows into groups of equal size."""
    return _keep(rollouts, pl.len().over("group_id") == size, "incomplete group", counts)


def keep_trainable(rollouts: pl.DataFrame, counts: DropCounts) -> pl.DataFrame:
    """Return only rollouts with at least one completion token and a reward."""
    rollouts = _keep(rollouts, pl.col("num_completion_tokens") > 0, "empty completion", counts)
    return _keep(rollouts, pl.col("reward").is_not_null(), "no reward", counts)


def _keep(rollouts: pl.DataFrame, condition: pl.Expr, reason: str, counts: DropCounts) -> pl.DataFrame:
    kept = rollouts.filter(condition)
    counts.add(reason, rollouts.height - kept.height)
    return kept
