"""Scored rollouts as a run with a stopping rule has them, drawn without an engine."""

import numpy as np
import polars as pl

from tasks.plan.stopping_rule import StoppingRule, wave_ends
from tasks.results.pass_rate import WavePlan, stop_reason


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
