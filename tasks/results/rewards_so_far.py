"""The rewards of a run that has not ended, from the shards that are scored. Each file is read once, and in part.

Of a run with a stopping rule they are over the first wave, in which nothing selects samples by their rewards.
"""

import logging
import time
from collections import Counter, deque
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import polars as pl

from tasks.errors import DamagedFile
from tasks.records import RunPaths
from tasks.results.group_pass_rates import wave_plan_of
from tasks.results.metrics import mean
from tasks.results.pass_rate import WavePlan
from tasks.results.reward_interval import Interval, mean_reward_interval
from tasks.results.sampling_metrics import zero_variance_share
from tasks.storage.published import shard_files

logger = logging.getLogger(__name__)

MOST_DISTINCT_CLUSTERS = 200
"""From more on the interval is the normal one, which takes milliseconds. A finished run draws from up to 5,000."""


@dataclass(frozen=True, kw_only=True)
class ArmSoFar:
    """The scored rollouts of an arm, or of a run, so far."""

    arm_id: str
    rollouts: int
    mean_reward: float
    interval: Interval | None
    truncation_rate: float | None
    """Of the generated rollouts: error rows are left out, as in the report."""
    mean_tokens: float | None


class SoFar(NamedTuple):
    """The figures over all scored shards."""

    rows: tuple[ArmSoFar, ...]
    """The highest mean reward first."""
    truncated: float | None
    zero_variance: float | None


def scored_rows(rollouts: pl.LazyFrame, scores: pl.LazyFrame, plan: WavePlan) -> pl.DataFrame:
    """Return what the figures need of a shard. Of an error row, length and truncation are null."""
    generated = pl.col("error").is_null()
    if plan.rule:
        rollouts = rollouts.filter(pl.col("sample_index") < plan.ends[0])
    return (
        rollouts.select(
            "rollout_id",
            "example_id",
            "arm_id",
            pl.when(generated).then("is_truncated").alias("is_truncated"),
            pl.when(generated).then("num_completion_tokens").alias("num_completion_tokens"),
        )
        .join(scores.select("rollout_id", "reward"), on="rollout_id")
        .drop("rollout_id")
        .collect()
    )


def arms_so_far(rows: pl.DataFrame, *, by: str = "arm_id") -> tuple[ArmSoFar, ...]:
    """Return the figures of each value of the column ``by`` that has a reward, the highest mean reward first."""
    arms = []
    for (name,), frame in rows.partition_by(by, as_dict=True).items():
        scored = frame.drop_nulls("reward")
        if (reward := mean(scored["reward"])) is not None:
            interval = mean_reward_interval(scored, seed=0, most_distinct=MOST_DISTINCT_CLUSTERS)
            arms.append(
                ArmSoFar(
                    arm_id=str(name),
                    rollouts=scored.height,
                    mean_reward=reward,
                    interval=interval,
                    truncation_rate=mean(frame["is_truncated"]),
                    mean_tokens=mean(frame["num_completion_tokens"]),
                )
            )
    return tuple(sorted(arms, key=lambda arm: (-arm.mean_reward, arm.arm_id)))


class RewardsSoFar:
    """Rewards of one run, or of ``several`` that are collected together."""

    def __init__(self, *, several: bool = False) -> None:
        self._several = several
        self._waiting: deque[tuple[RunPaths, int]] = deque()
        self._frames: list[pl.DataFrame] = []
        self._plans: dict[str, WavePlan] = {}
        self._rollouts: Counter[str] = Counter()
        self._read = 0
        self._sum = 0.0
        self._count = 0

    @property
    def num_shards(self) -> int:
        """How many shards are read."""
        return self._read

    @property
    def mean_reward(self) -> float | None:
        return self._sum / self._count if self._count else None

    def add(self, paths: RunPaths, index: int) -> None:
        """Have the shard ``index`` of a run, which has all its waves and scores, read by a later ``read``."""
        self._waiting.append((paths, index))

    def read(self, seconds: float) -> None:
        """Read shards that wait, until that took ``seconds``; one at least. A file that cannot be read is left out."""
        end = time.monotonic() + seconds
        while self._waiting:
            paths, index = self._waiting.popleft()
            try:
                plan = self._plans.get(paths.run_id) or wave_plan_of(paths.root)
                rollouts = _scan(paths.rollouts(index))
                rows = scored_rows(rollouts, _scan(paths.scores(index)), plan)
                files = shard_files(paths.rollouts(index))
                count = pl.scan_parquet(files, glob=False).select(pl.len()).collect().item()
            except (OSError, DamagedFile, pl.exceptions.PolarsError) as error:
                logger.debug("shard %d of %s is not among the rewards: %s", index, paths.root, error)
                continue
            self._sum += float(rows["reward"].cast(pl.Float64).sum())
            self._count += rows.height - rows["reward"].null_count()
            self._plans[paths.run_id] = plan
            self._rollouts[paths.run_id] += count
            self._read += 1
            if rows.height:
                self._frames.append(rows.with_columns(run_id=pl.lit(paths.run_id)))
            if time.monotonic() >= end:
                break

    def num_rollouts_of(self, run_id: str) -> int:
        """How many rollouts the shards of a run have that are read, in all of their waves."""
        return self._rollouts[run_id]

    def figures(self, run_id: str | None = None) -> SoFar:
        """Return the figures by arm or, of several runs, by run. Any thread may ask.

        With ``run_id`` they are of that run alone, by arm.
        """
        frames = [frame for frame in self._frames.copy() if run_id in (None, frame["run_id"][0])]
        if not frames:
            return SoFar((), None, None)
        rows = pl.concat(frames)
        several = self._several and run_id is None
        # an arm of one run and the same of another are two groups
        own = rows.with_columns(arm_id=pl.col("run_id") + "\0" + pl.col("arm_id")) if several else rows
        return SoFar(
            arms_so_far(rows, by="run_id" if several else "arm_id"),
            mean(rows["is_truncated"]),
            zero_variance_share(own.drop_nulls("reward")),
        )


def _scan(path: Path) -> pl.LazyFrame:
    return pl.scan_parquet(path, glob=False)
