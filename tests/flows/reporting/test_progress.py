"""The progress line at the start, in the middle and after a resume."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest

from flows.reporting.progress import Progress
from tests.support.synthetic import write_run


@dataclass(frozen=True, kw_only=True)
class Counted:
    rollouts_finished: int = 0
    rollouts_resumed: int = 0
    tokens_generated: int = 0
    first_admitted_at: float | None = None


ELAPSED = 1e6
"""Seconds since the first rollout was admitted."""


@pytest.mark.parametrize(
    ("done_before", "counts", "line"),
    [
        (0, {}, "0/502,000 rollouts · 0 tokens/s"),
        (1_000, {}, "1,000/502,000 rollouts · 0 tokens/s"),
        (0, {"tokens_generated": 250_000_000}, "0/502,000 rollouts · 250 tokens/s"),
        (
            500,
            {"rollouts_finished": 500_000, "rollouts_resumed": 500, "tokens_generated": 1_250_000_000},
            "501,000/502,000 rollouts · 1,250 tokens/s · ETA 33:20",
        ),
        (
            0,
            {"rollouts_finished": 100_000, "rollouts_resumed": 401_000},
            "501,000/502,000 rollouts · 0 tokens/s · ETA 2:46:40",
        ),
    ],
)
def test_the_line_shows_rollouts_speed_and_time_left(done_before: int, counts: dict[str, int], line: str) -> None:
    counters = Counted(first_admitted_at=0, **counts)
    progress = Progress(total=502_000, done_before=done_before, counters=counters, now=lambda: ELAPSED)
    assert progress.line() == line


@pytest.mark.parametrize(
    ("counters", "done_before", "line"),
    [
        (None, 0, "0/8 rollouts · 0 tokens/s"),
        (Counted(), 0, "0/8 rollouts · loading engines"),
        (Counted(), 8, "8/8 rollouts · 0 tokens/s"),
    ],
)
def test_before_the_first_rollout_there_is_no_speed(counters: Counted | None, done_before: int, line: str) -> None:
    assert Progress(total=8, done_before=done_before, counters=counters).line() == line


def test_the_mean_reward_is_of_the_rollouts_scored_so_far(tmp_path: Path) -> None:
    progress = Progress(total=8)
    paths = write_run(tmp_path / "run", shards=2, error_rows=0.2)
    rewards = []
    for index in range(2):
        progress.rewards.add(paths, index)
        progress.rewards.read(0)
        rewards += pl.read_parquet(paths.scores(index))["reward"].drop_nulls().to_list()
        mean = sum(rewards) / len(rewards)
        assert progress.line() == f"0/8 rollouts · 0 tokens/s · mean reward {mean:.3f}"
