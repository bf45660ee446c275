"""Chooses rollouts within their groups: groups of one size for GRPO, or the best rollouts for fine-tuning."""

import polars as pl

from tasks.export.filters import DropCounts, ExportFilters, keep
from tasks.scoring.score import is_right


def choose_rollouts(
    rollouts: pl.DataFrame, filters: ExportFilters, right_at: float, counts: DropCounts
) -> pl.DataFrame:
    """Return the rows of one shard that ``group_size``, ``balance`` or ``best`` leave, in order; update ``counts``."""
    if filters.best is not None:
        return _best(rollouts, filters.best, right_at, counts)
    if filters.group_size is None:
        return rollouts
    if filters.balance or not filters.include_errors:
        rollouts = keep(rollouts, pl.col("reward").is_not_null(), "no reward", counts)
    if filters.balance:
        return _balanced(rollouts, filters.group_size, right_at, counts)
    rollouts = keep(rollouts, pl.len().over("group_id") >= filters.group_size, "group is too small", counts)
    rank = pl.int_range(pl.len()).over("group_id")
    return keep(rollouts, rank < filters.group_size, "more than group_size", counts)


def _balanced(rollouts: pl.DataFrame, size: int, right_at: float, counts: DropCounts) -> pl.DataFrame:
    """Return groups of ``size`` rollouts, half of them right, or as near to that as the group allows.

    Of all choices this one has the largest variance of right and wrong, and so the strongest signal: max-variance
    down-sampling, Xu et al. 2025 (https://arxiv.org/abs/2504.13818). Which of the right and of the wrong ones are taken
    is decided by their requests' seeds, which are hashes of the run's seed and the rollout's place.
    """
    rollouts = rollouts.with_columns(is_right("reward", right_at).alias("_is_right"))
    right, total = pl.col("_is_right").sum().over("group_id").cast(pl.Int64), pl.len().over("group_id").cast(pl.Int64)
    rollouts = keep(rollouts, (right > 0) & (right < total), "group has one outcome", counts)
    rollouts = keep(rollouts, total >= size, "group is too small", counts)
    taken = pl.min_horizontal(right, pl.max_horizontal(pl.lit(size // 2, pl.Int64), size - (total - right)))
    rank = pl.struct("seed", "sample_index").rank("ordinal").over("group_id", "_is_right")
    limit = pl.when("_is_right").then(taken).otherwise(size - taken)
    return keep(rollouts, rank <= limit, "more than group_size", counts).drop("_is_right")


def _best(rollouts: pl.DataFrame, most: int, right_at: float, counts: DropCounts) -> pl.DataFrame:
    """Return up to ``most`` right rollouts of each group: the highest reward first, of equal ones the first sampled.

    Of equal completions there is one, as copies teach nothing: Yuan et al. 2023 (https://arxiv.org/abs/2308.01825).
    """
    rollouts = keep(rollouts, is_right("reward", right_at).fill_null(False), "not right", counts)
    ranked = rollouts.select(
        "rollout_id", "group_id", "completion_ids", order=pl.struct(-pl.col("reward"), "sample_index").rank("ordinal")
    ).sort("order")
    distinct = ranked.unique(["group_id", "completion_ids"], keep="first", maintain_order=True)
    best = distinct.filter(pl.int_range(pl.len()).over("group_id") < most)
    rollouts = keep(rollouts, pl.col("rollout_id").is_in(distinct["rollout_id"].implode()), "repeated", counts)
    return keep(rollouts, pl.col("rollout_id").is_in(best["rollout_id"].implode()), "not among the best", counts)
