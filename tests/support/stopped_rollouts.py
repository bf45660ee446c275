"""Scored rollouts as a run with a stopping rule has them, drawn without an engine."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tasks.files import publish_json, read_json
from tasks.plan.stopping_rule import StoppingRule, wave_ends
from tasks.records import WAVE_STEP, RunPaths, shard_indices
from tasks.results.pass_rate import WavePlan, stop_reason
from tests.support.synthetic import publish_shard, write_run


def wave_plan(rule: str | None, *, first: int = 4, size: int = 4, most: int = 16) -> WavePlan:
    """Return the waves of a run with ``rule``; without one, of ``most`` samples at once."""
    if rule is None:
        return WavePlan(ends=(most,))
    return WavePlan(ends=wave_ends(first, size, most), rule=StoppingRule.parse(rule))


def draw_rollouts(plan: WavePlan, rates: np.ndarray, *, seed: int = 0, floats: bool = False) -> pl.DataFrame:
    """Draw the rollouts of each question (row of ``rates``) under each arm (column), until its group stops.

    A right rollout has the reward 1 and a wrong one 0 or, with ``floats``, any from 0.5 to 1 and from 0 to 0.5. Right
    ones have 100 tokens and wrong ones 200.
    """
    rng = np.random.default_rng(seed)
    questions, arms = rates.shape
    most = plan.ends[-1]
    right = rng.random((questions, arms, most)) < rates[:, :, None]
    ends = np.array(plan.ends)
    counts = right.cumsum(axis=2)[:, :, ends - 1]
    stops = np.zeros(counts.shape, dtype=bool)
    for wave, end in enumerate(plan.ends):
        table = np.array([stop_reason(plan, end, count) is not None for count in range(end + 1)])
        stops[:, :, wave] = table[counts[:, :, wave]]
    drawn = ends[stops.argmax(axis=2)]
    question, arm, sample = np.nonzero(np.arange(most) < drawn[:, :, None])
    is_right = right[question, arm, sample]
    reward = np.where(is_right, 1.0, 0.0)
    if floats:
        reward = reward / 2 + rng.random(len(reward)) / 2
    return pl.DataFrame(
        {
            "example_id": question,
            "arm_id": arm,
            "sample_index": sample,
            "reward": reward,
            "num_completion_tokens": np.where(is_right, 100, 200),
            "correct_flexible": is_right,
        }
    ).with_columns(
        pl.format("q{}", pl.col("example_id").cast(pl.String).str.zfill(6)).alias("example_id"),
        pl.format("a{}", "arm_id").alias("arm_id"),
        pl.col("reward").cast(pl.Float32),
        extracted_answer=pl.when("correct_flexible").then(pl.lit("right")).otherwise(pl.lit("wrong")),
        extraction_method=pl.lit("hash"),
        is_truncated=~pl.col("correct_flexible"),
    )


def write_stopped_run(
    root: Path, rule: str, *, first: int = 2, size: int = 2, most: int = 8, **arguments: Any
) -> RunPaths:
    """Write a run whose groups stopped by ``rule``, with the files of its waves, as ``write_run`` writes one."""
    run = write_run(root, samples=most, **arguments)
    config = read_json(run.config)
    config["config"]["sampling"] |= {
        "samples_per_arm": first,
        "max_samples_per_arm": most,
        "sample_until": rule,
        "wave_size": size,
    }
    publish_json(config, run.config)
    plan = wave_plan(rule, first=first, size=size, most=most)
    for shard in shard_indices(run.root / "rollouts"):
        rollouts, scores = pl.read_parquet(run.rollouts(shard)), pl.read_parquet(run.scores(shard))
        rows = rollouts.select("rollout_id", "group_id", "sample_index").join(scores, on="rollout_id")
        ends = {group: _drawn(plan, rewards) for group, rewards in rows.group_by("group_id").agg("reward").iter_rows()}
        drawn = pl.col("group_id").replace_strict(ends)
        waves = sum(end < max(ends.values()) for end in plan.ends) + 1
        for wave, (begin, end) in enumerate(itertools.pairwise((0, *plan.ends[:waves]))):
            index = shard + wave * WAVE_STEP
            part = rollouts.filter(pl.col("sample_index").is_between(begin, end, closed="left"), drawn >= end)
            publish_shard(part, run.rollouts(index))
            publish_shard(scores.join(part, on="rollout_id", how="semi", maintain_order="left"), run.scores(index))
        publish_json({"waves": waves}, run.settled(shard))
    return run


def _drawn(plan: WavePlan, rewards: list[float | None]) -> int:
    assert plan.rule is not None
    for end in plan.ends[:-1]:
        known = [reward for reward in rewards[:end] if reward is not None]
        if plan.rule.holds(sum(reward == 1 for reward in known), sum(reward != 1 for reward in known)):
            return end
    return plan.ends[-1]
