"""The groups of a run: counts, pass rates, why each has no more samples, and what its rollouts weigh in a mean.

A group is the rollouts of one question under one arm.
"""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from tasks.plan.stopping_rule import AT_MAXIMUM, StoppingRule, wave_ends
from tasks.results.pass_rate import WavePlan, pass_rate, pass_rate_interval, stop_reason
from tasks.results.sampling_metrics import GROUP
from tasks.scoring.score import is_right
from tasks.storage.stored_config import read_stored_config

FIXED = "fixed"
"""Why a group of a run without a stopping rule has no more samples."""
DIFFICULTY_SCHEMA = pl.Schema(
    {
        "example_id": pl.String,
        "arm_id": pl.String,
        "n": pl.Int32,
        "right": pl.Int32,
        "unscored": pl.Int32,
        "estimate": pl.Float64,
        "lower": pl.Float64,
        "upper": pl.Float64,
        "stopped_by": pl.String,
    }
)
"""One row per group, sorted. ``n`` counts the rollouts with a reward, ``right`` those of them that are right, and
``unscored`` those without a reward. ``estimate`` is the pass rate, ``lower`` and ``upper`` its 95% interval; all three
are null where ``n`` is 0. ``stopped_by`` is a condition of the stopping rule, "max" or "fixed"; null where the scores
are not those by which groups stopped."""


def wave_plan_of(run_dir: Path) -> WavePlan:
    """Return the waves of the run at ``run_dir``, from its config.json. Raises DamagedFile."""
    asked = read_stored_config(run_dir).config.sampling
    first, most = asked.samples_per_arm, asked.max_samples_per_arm
    if asked.sample_until is None or most is None:
        return WavePlan(ends=(first,))
    return WavePlan(ends=wave_ends(first, asked.wave_size or first, most), rule=StoppingRule.parse(asked.sample_until))


def group_pass_rates(
    rows: pl.DataFrame, plan: WavePlan, right_at: float, *, with_intervals: bool = True
) -> pl.DataFrame:
    """Return the groups of ``rows`` in DIFFICULTY_SCHEMA, without ``stopped_by`` where the rewards do not decide.

    ``rows`` has one row per rollout, with ``example_id``, ``arm_id``, ``sample_index`` and ``reward``. Intervals take
    most of the time; without them ``lower`` and ``upper`` are null.
    """
    if plan.rule and not decides(rows, plan, right_at):
        first = rows.filter(pl.col("sample_index") < plan.ends[0])
        fixed = WavePlan(ends=plan.ends[:1])
        return group_pass_rates(first, fixed, right_at, with_intervals=with_intervals).with_columns(
            stopped_by=pl.lit(None, pl.String)
        )
    groups = (
        _counts(rows, plan, right_at)
        .group_by(GROUP, maintain_order=True)
        .agg(pl.col("n").alias("ends"), pl.col("right").last(), pl.col("drawn").sum())
        .with_columns(key=pl.col("ends").cast(pl.List(pl.String)).list.join(","), n=pl.col("ends").list.last())
    )
    kinds = groups.select("key", "ends", "right").unique(["key", "right"], maintain_order=True)
    own = [(_own_plan(plan, ends), ends[-1], key, right) for key, ends, right in kinds.iter_rows()]
    # groups of the same waves follow each other, so that few waves are in memory
    own.sort(key=lambda kind: kind[0].ends)
    outcomes = pl.DataFrame(
        [(key, right, *_outcome(waves, samples, right, with_intervals)) for waves, samples, key, right in own],
        schema={
            "key": pl.String,
            "right": groups.schema["right"],
            **{name: DIFFICULTY_SCHEMA[name] for name in ("estimate", "lower", "upper", "stopped_by")},
        },
        orient="row",
    )
    joined = groups.join(outcomes, on=["key", "right"], how="left", maintain_order="left")
    return joined.with_columns(unscored=pl.col("drawn") - pl.col("n")).select(
        pl.col(name).cast(kind) for name, kind in DIFFICULTY_SCHEMA.items()
    )


def weigh(rows: pl.DataFrame, plan: WavePlan, right_at: float) -> pl.DataFrame:
    """Return ``rows`` with ``weight`` and ``in_first_wave`` where the plan has a rule; else as they are.

    Given where a group stopped, its right samples are alike, and so are its wrong ones. So the mean of anything over
    right and over wrong ones, weighted by the estimate of the pass rate, is unbiased too: a group's right rollouts
    share the weight ``n * estimate``, its wrong ones the rest of ``n``. A rollout without a reward weighs 1. Where
    the rewards are not those by which groups stopped, only the first wave counts, which nothing selected.
    """
    if plan.rule is None:
        return rows
    in_first_wave = pl.col("sample_index") < plan.ends[0]
    if not decides(rows, plan, right_at):
        return rows.with_columns(weight=in_first_wave.cast(pl.Float64), in_first_wave=in_first_wave)
    groups = group_pass_rates(rows, plan, right_at, with_intervals=False).select(
        *GROUP, "n", "estimate", _right="right"
    )
    right, share = is_right("reward", right_at), pl.col("estimate")
    weight = pl.when(right).then(share / pl.col("_right")).otherwise((1 - share) / (pl.col("n") - pl.col("_right")))
    return (
        rows.join(groups, on=GROUP, how="left", maintain_order="left")
        .with_columns(
            weight=pl.when(pl.col("reward").is_null()).then(1.0).otherwise(weight * pl.col("n")),
            in_first_wave=in_first_wave,
        )
        .drop("n", "estimate", "_right")
    )


def decides(rows: pl.DataFrame, plan: WavePlan, right_at: float) -> bool:
    """Return whether each group of a finished run has the samples that the rule gives it by these rewards."""
    if plan.rule is None:
        return True
    is_last = pl.col("wave") == pl.col("wave").max().over(GROUP)
    states = _counts(rows, plan, right_at).select("wave", "n", "right", is_last=is_last).unique()
    most = len(plan.ends) - 1
    return all(
        is_last == (wave == most or plan.rule.holds(right, n - right) is not None)
        for wave, n, right, is_last in states.iter_rows()
    )


def _counts(rows: pl.DataFrame, plan: WavePlan, right_at: float) -> pl.DataFrame:
    """Return for each wave of a group the scored and the right samples up to its end, and the samples of the wave."""
    ends = pl.Series(plan.ends[:-1] if plan.rule else (), dtype=rows.schema["sample_index"])
    return (
        rows.group_by(*GROUP, ends.search_sorted(rows["sample_index"], side="right").alias("wave"))
        .agg(
            n=pl.col("reward").is_not_null().sum().cast(pl.Int64),
            right=is_right("reward", right_at).sum().cast(pl.Int64),
            drawn=pl.len().cast(pl.Int64),
        )
        .sort(*GROUP, "wave")
        .with_columns(pl.col("n", "right").cum_sum().over(GROUP))
    )


def _own_plan(plan: WavePlan, ends: Sequence[int]) -> WavePlan:
    """Return the waves of a group with so many scored samples after each of those that it had."""
    if plan.rule is None:
        return WavePlan(ends=(ends[-1],))
    lost = plan.ends[len(ends) - 1] - ends[-1]
    # samples without a reward leave the waves smaller; those to come are taken as planned
    own_ends = {end for end in (*ends, *(end - lost for end in plan.ends[len(ends) :])) if end}
    return WavePlan(ends=tuple(sorted(own_ends)), rule=plan.rule)


def _outcome(
    plan: WavePlan, samples: int, right: int, with_interval: bool
) -> tuple[float | None, float | None, float | None, str]:
    """Return estimate, interval and reason of a group with waves of its own that stopped there."""
    reason = FIXED if plan.rule is None else ((samples and stop_reason(plan, samples, right)) or AT_MAXIMUM)
    if not samples:
        return None, None, None, reason
    low, high = pass_rate_interval(plan, samples, right) if with_interval else (None, None)
    return pass_rate(plan, samples, right), low, high, reason
