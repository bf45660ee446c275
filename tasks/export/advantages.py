"""Computes group-relative advantages for GRPO from scored rollouts.

An advantage is ``(reward - group mean) / (group standard deviation + EPSILON)``; a group is the rollouts that share a
prompt: Shao et al. 2024, DeepSeekMath, section 4.1.2 (https://arxiv.org/abs/2402.03300). As in TRL's ``GRPOTrainer``,
the standard deviation is the sample's (n - 1) and EPSILON is 1e-4.
"""

import polars as pl

from tasks.errors import ConfigError

EPSILON = 1e-4


def group_advantages(rollouts: pl.DataFrame) -> pl.DataFrame:
    """Return ``rollouts``, which have ``group_id`` and ``reward``, with a float64 column ``advantage``.

    The advantage is 0 in a group whose rewards are all equal. A row with a null reward (an error row) has a null
    advantage and does not count in its group's statistics. Raises ConfigError when a group has a single row.
    """
    sizes = rollouts.group_by("group_id").len()["len"]
    singles = int((sizes == 1).sum())
    if singles:
        raise ConfigError(
            f"{singles} of {len(sizes)} groups have size 1 (one sample per question and arm), so they have no "
            "baseline to compare with. Generate with --samples-per-arm 2 or more"
        )
    reward = pl.col("reward").cast(pl.Float64)
    is_flat = reward.min().over("group_id") == reward.max().over("group_id")
    centred = reward - reward.mean().over("group_id")
    spread = reward.std(ddof=1).over("group_id")
    return rollouts.with_columns(
        advantage=pl.when(is_flat & reward.is_not_null()).then(0.0).otherwise(centred / (spread + EPSILON))
    )
