"""Filters the rollouts of a run for an export. What chooses within groups is in ``group_choice.py``."""

import math
from dataclasses import dataclass, field

import polars as pl

from profiles.nearest import did_you_mean
from tasks.errors import ConfigError
from tasks.scoring.score import RIGHT_AT, is_right


@dataclass(frozen=True, kw_only=True)
class ExportFilters:
    """The filters. They apply in the order of the fields, so ``max_per_group`` counts what the others left."""

    arms: tuple[str, ...] = ()
    """Only these arms; empty takes all."""
    include_errors: bool = False
    """Keep error rows, which have no completion and no reward."""
    drop_gold_suspects: bool = False
    """Leave out questions whose ground truth looks wrong, because their correct answers get no reward."""
    min_pass_rate: float | None = None
    """Leave out groups with a smaller share of right rollouts, of all that have a reward, and groups without one."""
    max_pass_rate: float | None = None
    """Leave out groups with a larger share of right rollouts, and groups without a reward."""
    drop_zero_variance: bool = False
    """Leave out groups whose rewards are all equal, because their advantages are 0."""
    drop_truncated: bool = False
    """Leave out completions that max_tokens cut off."""
    min_reward: float | None = None
    """Smallest reward that passes. A rollout without a reward does not pass."""
    max_per_group: int | None = None
    """At most so many rollouts per group, the first ones in sample order."""
    group_size: int | None = None
    """Exactly so many rollouts per group, the first ones in sample order. Smaller groups are left out."""
    balance: bool = False
    """With ``group_size``: half of them right and half wrong, as far as the group has them. Groups that are all right
    or all wrong are left out."""
    best: int | None = None
    """Only the right rollouts with the highest rewards, at most so many per group, and none twice."""


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
    _check_pass_rates(filters)
    _check_choice(filters, samples)
    if filters.min_reward is not None and not math.isfinite(filters.min_reward):
        raise ConfigError(f"min_reward is {filters.min_reward}; it must be a finite number")
    if filters.drop_zero_variance and samples < 2:
        raise ConfigError(
            "every group of this run has one rollout (--samples-per-arm 1), so its rewards have no variance and all "
            "would be left out. Generate with --samples-per-arm 2 or more, or leave drop_zero_variance off"
        )


def _check_pass_rates(filters: ExportFilters) -> None:
    low, high = filters.min_pass_rate, filters.max_pass_rate
    for name, value in (("min_pass_rate", low), ("max_pass_rate", high)):
        if value is not None and not 0 <= value <= 1:
            raise ConfigError(f"{name} is {value}; it is a share of right rollouts, from 0 to 1")
    if low is not None and high is not None and low > high:
        raise ConfigError(f"min_pass_rate is {low}, above max_pass_rate {high}: no group would pass. Exchange them")


def _check_choice(filters: ExportFilters, samples: int) -> None:
    size = filters.group_size
    if filters.balance and size is None:
        raise ConfigError("balance is given, but not the size that groups shall have. Give group_size")
    if size is not None and not 2 <= size <= samples:
        allowed = "2" if samples == 2 else f"from 2 to {samples}"
        raise ConfigError(
            f"group_size is {size}; it must be {allowed}, which is the size of the run's largest group"
            if samples > 1
            else f"group_size is {size}, and a group has one rollout here. Generate with --samples-per-arm 2 or more"
        )
    if filters.best is not None and filters.best < 1:
        raise ConfigError(f"best is {filters.best}; it must be at least 1")
    choices = ("best", "max_per_group", "group_size")
    given = [f"{name} is {value}" for name in choices if (value := getattr(filters, name)) is not None]
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(given)}: each says which rollouts of a group are taken. Give one of them")


def apply_filters(
    rollouts: pl.DataFrame, filters: ExportFilters, counts: DropCounts, right_at: float = RIGHT_AT
) -> pl.DataFrame:
    """Return the rows of one shard that pass, in order, and update ``counts``. A group never spans shards.

    A reward of at least ``right_at`` is right. What chooses within groups applies later: see ``group_choice``.
    """
    counts.read += rollouts.height
    if filters.min_pass_rate is not None or filters.max_pass_rate is not None:
        # over the whole group, before other filters take a part of it
        rate = is_right("reward", right_at).mean().over("group_id")
        most = 1.0 if filters.max_pass_rate is None else filters.max_pass_rate
        passes = rate.is_between(filters.min_pass_rate or 0.0, most)
        rollouts = rollouts.with_columns(passes.fill_null(False).alias("_has_pass_rate"))
    if filters.arms:
        rollouts = keep(rollouts, pl.col("arm_id").is_in(filters.arms), "arm", counts)
    if not filters.include_errors:
        rollouts = keep(rollouts, pl.col("error").is_null(), "error", counts)
    if filters.drop_gold_suspects:
        rollouts = keep(rollouts, ~pl.col("gold_suspect"), "suspect ground truth", counts)
    if "_has_pass_rate" in rollouts.columns:
        rollouts = keep(rollouts, pl.col("_has_pass_rate"), "pass rate", counts).drop("_has_pass_rate")
    if filters.drop_zero_variance:
        varied = pl.col("reward").min().over("group_id") < pl.col("reward").max().over("group_id")
        rollouts = keep(rollouts, varied.fill_null(False), "zero variance", counts)
    if filters.drop_truncated:
        rollouts = keep(rollouts, ~pl.col("is_truncated"), "truncated", counts)
    if filters.min_reward is not None:
        rollouts = keep(rollouts, (pl.col("reward") >= filters.min_reward).fill_null(False), "reward", counts)
    if filters.max_per_group is not None:
        rank = pl.int_range(pl.len()).over("group_id")
        rollouts = keep(rollouts, rank < filters.max_per_group, "more than max_per_group", counts)
    return rollouts


def keep_complete_groups(rollouts: pl.DataFrame, size: int, counts: DropCounts) -> pl.DataFrame:
    """Return only groups of exactly ``size`` rollouts, for trainers that split rows into groups of equal size."""
    return keep(rollouts, pl.len().over("group_id") == size, "incomplete group", counts)


def keep_trainable(rollouts: pl.DataFrame, counts: DropCounts) -> pl.DataFrame:
    """Return only rollouts with at least one completion token and a reward."""
    rollouts = keep(rollouts, pl.col("num_completion_tokens") > 0, "empty completion", counts)
    return keep(rollouts, pl.col("reward").is_not_null(), "no reward", counts)


def keep(rollouts: pl.DataFrame, condition: pl.Expr, reason: str, counts: DropCounts) -> pl.DataFrame:
    """Return the rows for which ``condition`` holds, and count the others under ``reason``."""
    kept = rollouts.filter(condition)
    counts.add(reason, rollouts.height - kept.height)
    return kept
