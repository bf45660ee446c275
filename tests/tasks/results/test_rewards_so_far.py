"""Rewards while a run works: the same numbers as its report has, from files that are read once."""

from pathlib import Path

import polars as pl
import pytest

from tasks.results.metrics import run_metrics
from tasks.results.rewards_so_far import RewardsSoFar
from tasks.results.run_card import build_run_card
from tasks.results.scored_rollouts import load_metric_rows
from tasks.storage.run_files import known_shards
from tasks.viewing.run_progress import read_progress
from tests.support.stopped_rollouts import write_stopped_run
from tests.support.synthetic import ARMS, write_run


def test_all_shards_give_the_numbers_of_the_report_and_are_read_once(tmp_path: Path) -> None:
    paths = write_run(tmp_path / "run", shards=3, samples=3, truncated=0.3, error_rows=0.2)
    so_far = RewardsSoFar()
    for index in range(3):
        so_far.add(paths, index)
        so_far.read(0)
        for path in (paths.rollouts(index), paths.scores(index)):
            path.rename(path.with_suffix(".read"))
    for path in paths.root.glob("*/*.read"):
        path.rename(path.with_suffix(".parquet"))
    metrics = run_metrics(load_metric_rows(paths))
    figures = so_far.figures()
    assert so_far.mean_reward == pytest.approx(metrics.overall.mean_reward)
    assert figures.truncated == metrics.overall.truncation_rate
    assert figures.zero_variance == metrics.overall.zero_variance_share
    found = {row.arm_id: (row.mean_reward, row.interval, row.rollouts, row.truncation_rate) for row in figures.rows}
    assert found == {
        str(arm.arm_id): (arm.mean_reward, arm.mean_reward_interval, arm.scored, arm.truncation_rate)
        for arm in metrics.arms
    }
    assert [row.mean_reward for row in figures.rows] == sorted((row[0] for row in found.values()), reverse=True)


def test_of_several_runs_each_has_a_row_and_its_own_groups(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / name, shards=1, samples=2, accuracy=accuracy) for name, accuracy in (("a", 0), ("b", 1))
    ]
    so_far = RewardsSoFar(several=True)
    for paths in runs:
        so_far.add(paths, 0)
    so_far.read(0)
    assert [row.arm_id for row in so_far.figures().rows] == ["a"], "also while there is only one of them"
    so_far.read(60)
    assert {row.arm_id for row in so_far.figures("a").rows} == set(ARMS)
    figures = so_far.figures()
    assert [(row.arm_id, row.mean_reward) for row in figures.rows] == [("b", 1.0), ("a", 0.0)]
    # as one run, each group would have rewards of 0 and of 1
    assert figures.zero_variance == 1.0


def test_a_file_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    paths = write_run(tmp_path / "run", shards=2)
    paths.scores(0).write_bytes(b"no Parquet")
    so_far = RewardsSoFar()
    for index in (0, 1, 2):
        so_far.add(paths, index)
    so_far.read(60)
    assert so_far.num_shards == 1
    assert so_far.mean_reward == pytest.approx(pl.read_parquet(paths.scores(1))["reward"].mean())


def test_before_the_first_shard_there_is_nothing() -> None:
    so_far = RewardsSoFar()
    so_far.read(60)
    assert so_far.mean_reward is None
    assert so_far.figures() == ((), None, None)


def test_of_a_run_with_a_rule_they_are_over_the_first_wave(tmp_path: Path) -> None:
    paths = write_stopped_run(tmp_path / "run", "correct:2", shards=2, arms=2, questions_per_shard=20)
    so_far = RewardsSoFar()
    for index in known_shards(paths.root, "rollouts"):
        so_far.add(paths, index)
    so_far.read(60)
    rows = load_metric_rows(paths)
    first = rows.filter(pl.col("sample_index") < 2)
    assert first["reward"].mean() != rows["reward"].mean()
    assert so_far.mean_reward == pytest.approx(first["reward"].mean())
    assert {row.arm_id: row.mean_reward for row in so_far.figures().rows} == pytest.approx(
        dict(first.group_by("arm_id").agg(pl.col("reward").mean()).iter_rows())
    )
    assert (so_far.num_shards, so_far.num_rollouts_of("run")) == (2, rows.height)
    assert read_progress(paths.root).arms == so_far.figures().rows
    assert f"| mean reward | {run_metrics(rows).overall.mean_reward:.4f} |" in build_run_card(paths.root)
