"""What a stopping rule leaves of a run: the groups, and means that the rule does not bias."""

import itertools
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tasks.errors import DamagedFile
from tasks.files import publish_json
from tasks.results.group_pass_rates import DIFFICULTY_SCHEMA, decides, group_pass_rates, wave_plan_of, weigh
from tasks.results.metrics import by_group, column_mean, run_metrics
from tasks.results.pass_rate import WavePlan, pass_rate, pass_rate_interval
from tasks.results.reward_interval import mean_reward_interval
from tests.support.stopped_rollouts import draw_rollouts, wave_plan

RULES = ("correct:2", "mixed", "width:0.45", "mixed,correct:6,width:0.5")
RULED = {"samples_per_arm": 4, "max_samples_per_arm": 11, "sample_until": "mixed"}
CORRECT = wave_plan("correct:2", first=2, size=2, most=6)


def rollouts(groups: dict[str, list[float | None]]) -> pl.DataFrame:
    """One row per reward of each question; a null reward is a rollout without one."""
    rows = [(name, "a", index, reward) for name, group in groups.items() for index, reward in enumerate(group)]
    return pl.DataFrame(rows, ["example_id", "arm_id", "sample_index", ("reward", pl.Float32)], orient="row")


@pytest.mark.parametrize(
    ("sampling", "plan"),
    [
        ({}, WavePlan(ends=(1,))),
        ({"samples_per_arm": 8, "sample_until": None}, WavePlan(ends=(8,))),
        ({**RULED, "wave_size": 3}, wave_plan("mixed", size=3, most=11)),
        ({**RULED, "wave_size": None}, wave_plan("mixed", most=11)),
    ],
)
def test_the_waves_are_those_of_the_configuration(sampling: dict[str, Any], plan: WavePlan, tmp_path: Path) -> None:
    publish_json({"config": {"sampling": sampling}}, tmp_path / "config.json")
    assert wave_plan_of(tmp_path) == plan


def test_a_configuration_that_cannot_be_is_named(tmp_path: Path) -> None:
    publish_json({"config": {"sampling": {**RULED, "samples_per_arm": 0}}}, tmp_path / "config.json")
    with pytest.raises(DamagedFile, match="samples_per_arm"):
        wave_plan_of(tmp_path)


def test_each_group_has_its_counts_its_pass_rate_and_why_it_stopped() -> None:
    rows = rollouts({"q1": [1, 1], "q2": [0, 1, 1, 0], "q3": [0, 0, 0, 1, 0, 0], "q4": [0, 0, 0, 1, 1, 1]})
    groups = group_pass_rates(rows, CORRECT, 1.0)
    assert groups.schema == DIFFICULTY_SCHEMA
    assert groups.select("n", "right", "stopped_by").rows() == [
        (2, 2, "correct:2"),
        (4, 2, "correct:2"),
        (6, 1, "max"),
        (6, 3, "correct:2"),
    ]
    for n, right, estimate, lower, upper in groups.select("n", "right", "estimate", "lower", "upper").iter_rows():
        assert estimate == pass_rate(CORRECT, n, right)
        assert (lower, upper) == pass_rate_interval(CORRECT, n, right)


def test_a_fixed_number_of_samples_has_plain_pass_rates() -> None:
    groups = group_pass_rates(rollouts({"q1": [1, 0, 0.4, None]}), WavePlan(ends=(1,)), 0.4)
    (row,) = groups.rows(named=True)
    assert (row["n"], row["right"], row["unscored"], row["estimate"], row["stopped_by"]) == (
        3,
        2,
        1,
        0.666666666667,
        "fixed",
    )


def test_a_rollout_without_a_reward_is_neither_right_nor_wrong() -> None:
    rows = rollouts({"q1": [None, None, 0, 1, 1, None], "q2": [None] * 6, "q3": [1, None, 1, 1]})
    groups = group_pass_rates(rows, CORRECT, 1.0)
    assert groups.select("n", "right", "unscored", "stopped_by").rows() == [
        (3, 2, 3, "correct:2"),
        (0, 0, 6, "max"),
        (3, 3, 1, "correct:2"),
    ]
    # the waves were of 0, 2 and 1 samples, and of 1 and 2
    assert groups["estimate"].to_list() == [
        pass_rate(WavePlan(ends=(2, 3), rule=CORRECT.rule), 3, 2),
        None,
        pass_rate(WavePlan(ends=(1, 3, 5), rule=CORRECT.rule), 3, 3),
    ]


def test_waves_of_many_groups_that_lack_rewards_are_not_in_memory_together() -> None:
    """Each of these groups has waves of its own: two samples lack a reward, in other waves than those of the others."""
    plan = wave_plan("width:0.1", first=4, size=4, most=160)
    lost = itertools.islice(itertools.combinations(range(0, 160, 4), 2), 48)
    groups = [[None if index in pair else index % 2 for index in range(160)] for pair in lost]

    def kept_bytes(count: int) -> int:
        tracemalloc.start()
        group_pass_rates(rollouts({f"q{index}": group for index, group in enumerate(groups[:count])}), plan, 1.0)
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return kept

    group_pass_rates(rollouts({"q": groups[0]}), plan, 1.0)
    assert kept_bytes(48) < 2 * kept_bytes(12)


@pytest.mark.parametrize(
    ("group", "is_of_the_rule"),
    [([1, 1], True), ([0, 1], False), ([1, 1, 0, 0], False), ([0, 1, 1, 0], True), ([0] * 6, True), ([0] * 4, False)],
)
def test_other_rewards_than_those_that_decided_are_noticed(group: list[float | None], is_of_the_rule: bool) -> None:
    rows = rollouts({"q0": [1, 1], "q1": group})
    assert decides(rows, CORRECT, 1.0) is is_of_the_rule
    groups = group_pass_rates(rows, CORRECT, 1.0)
    weighted = weigh(rows, CORRECT, 1.0)
    if not is_of_the_rule:
        # only the first wave is a sample that nothing selected
        assert groups["n"].to_list() == [2, 2]
        assert groups["stopped_by"].to_list() == [None, None]
        assert weighted["weight"].to_list() == [1.0] * 4 + [0.0] * (len(group) - 2)
    assert weighted["in_first_wave"].to_list() == [True] * 4 + [False] * (len(group) - 2)


@pytest.mark.parametrize("rule", RULES)
def test_means_are_not_biased_by_the_rule(rule: str) -> None:
    plan = wave_plan(rule)
    rates = np.tile([[0.02, 0.3, 0.5, 0.9, 0.98]], (4000, 1))
    rows = weigh(draw_rollouts(plan, rates, floats=True), plan, 0.5)
    weighted = by_group(rows)
    # wrong rewards are 0.25 on average, and right ones 0.75
    true_reward, true_tokens = 0.25 + rates.mean() / 2, 200 - 100 * rates.mean()
    assert column_mean(weighted, "reward") == pytest.approx(true_reward, rel=0.01)
    assert column_mean(weighted, "num_completion_tokens") == pytest.approx(true_tokens, rel=0.01)
    assert column_mean(weighted, "is_truncated") == pytest.approx(1 - rates.mean(), rel=0.01)
    if rule == "correct:2":
        # as the share of right ones in a group would be
        shares = rows.group_by("example_id", "arm_id").agg((pl.col("reward") >= 0.5).mean())["reward"].to_numpy()
        assert shares.mean() - rates.mean() > 0.03 * rates.mean()


@pytest.mark.parametrize("rule", [None, *RULES])
def test_the_intervals_of_arms_cover_their_rewards(rule: str | None) -> None:
    """Each arm is a run of its own, over questions that are drawn from the same ones: 95% intervals, 300 times."""
    plan = wave_plan(rule)
    rates = np.random.default_rng(11).beta(0.7, 0.9, size=(80, 300))
    rows = weigh(draw_rollouts(plan, rates, seed=12), plan, 1.0)
    arms = by_group(rows.select("example_id", "arm_id", "reward", *(["weight"] if rule else []))).partition_by("arm_id")
    intervals = [mean_reward_interval(arm, seed=0, most_distinct=0) for arm in arms]
    covered = np.mean([interval is not None and interval.low <= 0.7 / 1.6 <= interval.high for interval in intervals])
    assert 0.93 <= covered <= 0.97
    # the bootstrap, of which these are the limit, has the same ends
    drawn, normal = mean_reward_interval(arms[0], seed=0), intervals[0]
    assert drawn is not None
    assert normal is not None
    assert (drawn.method, normal.method) == ("cluster_bootstrap", "cluster_normal")
    assert (drawn.low, drawn.high) == pytest.approx((normal.low, normal.high), abs=0.01)


def test_metrics_of_a_run_with_a_rule() -> None:
    plan = wave_plan("mixed", first=2, size=2, most=8)
    rates = np.column_stack([np.linspace(0, 1, 400)] * 2) * [[1.0, 0.6]]
    rows = draw_rollouts(plan, rates, seed=3)
    metrics = run_metrics(weigh(rows, plan, 1.0))
    first = run_metrics(rows.filter(pl.col("sample_index") < 2))
    estimates = group_pass_rates(rows, plan, 1.0)
    for arm, of_first in zip(metrics.arms, first.arms, strict=True):
        assert arm.mean_reward == pytest.approx(estimates.filter(arm_id=arm.arm_id)["estimate"].mean())
        assert arm.scored == rows.filter(arm_id=arm.arm_id).height > of_first.scored
        # where all groups have the same number of samples, these are of them alone
        assert (arm.pass_at_k, arm.maj_at_k) == (of_first.pass_at_k, of_first.maj_at_k)
    (contrast,) = metrics.contrasts
    means = [arm.mean_reward or 0.0 for arm in metrics.arms]
    assert contrast.mean_difference == pytest.approx(means[0] - means[1])
