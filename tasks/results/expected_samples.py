"""How many samples groups will need until a rule holds, by the pass rates of an earlier run."""

from collections import Counter
from pathlib import Path

import polars as pl

from tasks.errors import ConfigError, DamagedFile
from tasks.plan.sampling import Sampling
from tasks.plan.stopping_rule import StoppingRule
from tasks.records import OWN_SCORES
from tasks.scoring.score import is_right
from tasks.storage.run_files import known_shards, scan_shards


def samples_per_group(run_dir: Path, sampling: Sampling, right_at: float) -> float | None:
    """Return the expected samples of a group under the rule of ``sampling``, with pass rates of the run ``run_dir``.

    None for a run without scores, or whose files are damaged.
    """
    counts = _counts(run_dir, right_at)
    if not counts:
        return None
    total = sum(counts.values())
    # Jeffreys' prior: a group with one right rollout of one is not sure to be right again
    return (
        sum(
            number * expected_samples((right + 0.5) / (scored + 1), sampling)
            for (right, scored), number in counts.items()
        )
        / total
    )


def expected_samples(pass_rate: float, sampling: Sampling) -> float:
    """Return the expected samples of a group whose rollouts are right with probability ``pass_rate``."""
    rule = StoppingRule.parse(sampling.sample_until or "")
    still_open, expected, before = {0: 1.0}, 0.0, 0
    for end in sampling.wave_ends:
        expected += (end - before) * sum(still_open.values())
        for _ in range(end - before):
            still_open = _one_more(still_open, pass_rate)
        still_open = {right: share for right, share in still_open.items() if rule.holds(right, end - right) is None}
        before = end
    return expected


def _one_more(shares: dict[int, float], pass_rate: float) -> dict[int, float]:
    """Return the shares of groups by right rollouts, after one more rollout of each."""
    after: dict[int, float] = {}
    for right, share in shares.items():
        after[right + 1] = after.get(right + 1, 0.0) + share * pass_rate
        after[right] = after.get(right, 0.0) + share * (1 - pass_rate)
    return after


def _counts(run_dir: Path, right_at: float) -> Counter[tuple[int, int]]:
    """Return how many groups of the run have so many right and scored rollouts."""
    try:
        if not known_shards(run_dir, OWN_SCORES):
            return Counter()
        groups = (
            scan_shards(run_dir, "rollouts")
            .select("rollout_id", "example_id", "arm_id")
            .join(scan_shards(run_dir, OWN_SCORES).select("rollout_id", "reward"), on="rollout_id")
            .group_by("example_id", "arm_id")
            .agg(is_right("reward", right_at).sum().alias("right"), pl.col("reward").count().alias("scored"))
            .filter(pl.col("scored") > 0)
            .select("right", "scored")
            .collect()
        )
    except (ConfigError, DamagedFile, OSError, pl.exceptions.PolarsError):
        return Counter()
    return Counter(groups.iter_rows())
