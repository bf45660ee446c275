from pathlib import Path

import polars as pl
import pytest

from tasks.errors import ConfigError
from tasks.records import SCORE_SCHEMA
from tasks.results.rescore import RewardChange, rescore_run
from tasks.scoring.score_shard import score_shard
from tasks.storage.published import record_published
from tests.support.synthetic import publish_shard

COMPLETIONS = [["#### 18", "it is 18", "none"], ["it is 5", "#### 18\nso 18", None]]


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    run = tmp_path / "run-1"
    (run / "rollouts").mkdir(parents=True)
    for shard, completions in enumerate(COMPLETIONS):
        name = f"shard-{shard:05d}.parquet"
        frame = pl.DataFrame(
            {
                "rollout_id": [f"s{shard}r{row}" for row in range(3)],
                "example_id": "e",
                "completion": completions,
                "ground_truth": "18",
                "finish_reason": "stop",
                "error": [None if text else "EngineCrashed: gone" for text in completions],
            },
            schema_overrides={"error": pl.String},
        )
        publish_shard(frame, run / "rollouts" / name)
        record_published(score_shard(run / "rollouts" / name, run / "scores" / name))
    return run


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def test_new_scores_stand_beside_the_old_and_changes_are_listed(run_dir: Path) -> None:
    before = files(run_dir / "scores")
    report = rescore_run(run_dir, "tests.support.custom_scorers:last_word")
    assert files(run_dir / "scores") == before
    assert report.directory == run_dir / "scores@tests.support.custom_scorers-last_word-7"
    assert (report.shards, report.rollouts, report.changed, report.unscored) == (2, 6, 1, 0)
    assert report.changes == (
        RewardChange(rollout_id="s0r1", old_reward=0.0, new_reward=1.0, old_extracted=None, new_extracted="18"),
    )
    assert report.old_mean_reward == pytest.approx(2 / 5)
    assert report.new_mean_reward == pytest.approx(3 / 5)
    new = pl.read_parquet(report.directory / "shard-*.parquet")
    assert new.schema == SCORE_SCHEMA
    assert new.height == 6
    assert pl.read_parquet(report.directory / "changes.parquet")["rollout_id"].to_list() == ["s0r1"]


def test_the_same_scorer_changes_nothing_and_can_run_twice(run_dir: Path) -> None:
    first = rescore_run(run_dir, "gsm8k")
    second = rescore_run(run_dir, "gsm8k")
    assert first == second
    assert (first.changed, first.changes) == (0, ())


def test_a_shard_without_old_scores_is_counted_and_not_compared(run_dir: Path) -> None:
    (run_dir / "scores" / "shard-00001.parquet").unlink()
    report = rescore_run(run_dir, "tests.support.custom_scorers:length")
    assert (report.rollouts, report.unscored, report.changed) == (6, 3, 3)


def test_a_directory_without_rollouts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no rollouts to score"):
        rescore_run(tmp_path, "gsm8k")
