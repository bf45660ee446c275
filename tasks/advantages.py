"""Group-relative advantages for GRPO: a view derived from scored rollouts, not a stage.

``(reward - group mean) / (group standard deviation + EPSILON)``, the group being the rollouts that share an identical
prompt. Shao et al. 2024, DeepSeekMath, section 4.1.2 (https://arxiv.org/abs/2402.03300). The standard deviation is the
sample's (n - 1) and EPSILON 1e-4, as in TRL's ``GRPOTrainer``.
"""

import polars as pl

from tasks.errors import ConfigError

EPSILON = 1e-4


def group_advantages(rollouts: pl.DataFrame) -> pl.DataFrame:
    """``rollouts``, with ``group_id`` and ``reward``, plus a float64 column ``advantage``.

    A group whose rewards are all equal gets 0 throughout. A row with a null reward (an error) has a null
    advantage and takes no part in its group's statistics. Raises ConfigError when a group has a single row, which has
    nothing to be compared with.
    """
    sizes = rollouts.group_by("group_id").len()["len"]
    alone = int((sizes == 1).sum())
    if alone:
        raise ConfigError(
            f"{alone} of {len(sizes)} groups have size 1 (one sample per question and arm), so their rollouts have no "
            "baseline. Generate with samples_per_arm >= 2"
        )
    reward = pl.col("reward").cast(pl.Float64)
    is_flat = reward.min().over("group_id") == reward.max().over("group_id")
    centred = reward - reward.mean().over("group_id")
    spread = reward.std(ddof=1).over("group_id")
    return rollouts.with_columns(
        advantage=pl.when(is_flat & reward.is_not_null()).then(0.0).otherwise(centred / (spread + EPSILON))
    )
