from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from tasks.files import publish_parquet
from tasks.plan.run_config import config_from_parameters
from tasks.plan.run_plan import RunPlan, plan_run
from tasks.plan.shards import Shard, is_finished, rollouts_finished, scores_made_from, shard_dataset
from tasks.records import ROLLOUT_SCHEMA
from tasks.scoring.scorers import load_scorer
from tasks.storage.published import record_published


@pytest.fixture
def plan(tmp_path: Path) -> RunPlan:
    return plan_run(config_from_parameters({"questions": 7, "shard_size": 3}), tmp_path)


def publish(plan: RunPlan, shard: Shard, rows: int | None = None) -> Path:
    path = plan.paths.rollouts(shard.index)
    count = shard.num_rollouts if rows is None else rows
    publish_parquet(
        pl.DataFrame({"rollout_id": [str(row) for row in range(count)]})
        .cast({"rollout_id": pl.String})
        .select(
            pl.lit(None, dtype=kind).alias(name) if name != "rollout_id" else pl.col(name)
            for name, kind in ROLLOUT_SCHEMA.items()
        ),
        path,
    )
    record_published(path)
    return path


def test_shards_hold_every_question_once(plan: RunPlan) -> None:
    shards = shard_dataset(plan)
    assert [shard.num_questions for shard in shards] == [3, 3, 1]
    stored = pl.concat([pl.read_parquet(plan.paths.questions(shard.index)) for shard in shards])
    assert stored.equals(plan.questions)


def test_a_damaged_question_shard_is_made_again(plan: RunPlan) -> None:
    shard_dataset(plan)
    path = plan.paths.questions(1)
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    shard_dataset(plan)
    assert pl.read_parquet(path).equals(plan.questions.slice(3, 3))


def test_a_published_shard_is_finished(plan: RunPlan) -> None:
    shard = shard_dataset(plan)[0]
    assert not rollouts_finished(plan.paths, shard)
    publish(plan, shard)
    assert rollouts_finished(plan.paths, shard)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [_truncate, _flip, Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_damaged_shard_is_not_finished(plan: RunPlan, damage: Callable[[Path], object]) -> None:
    shard = shard_dataset(plan)[0]
    damage(publish(plan, shard))
    assert not rollouts_finished(plan.paths, shard)


def test_a_shard_with_missing_rows_or_columns_is_not_finished(plan: RunPlan) -> None:
    shards = shard_dataset(plan)
    publish(plan, shards[0], rows=shards[0].num_rollouts - 1)
    assert not rollouts_finished(plan.paths, shards[0])
    path = publish(plan, shards[1])
    publish_parquet(pl.read_parquet(path).drop("seed"), path)
    record_published(path)
    assert not rollouts_finished(plan.paths, shards[1])


def test_new_rollouts_make_old_scores_stale(plan: RunPlan) -> None:
    shard = shard_dataset(plan)[0]
    path = publish(plan, shard)
    scores = plan.paths.scores(0)
    publish_parquet(pl.DataFrame({"reward": [1.0]}), scores)
    scorer = load_scorer("gsm8k")
    made_from = scores_made_from(plan.paths, 0, scorer)
    record_published(scores, made_from=made_from)
    assert is_finished(scores, made_from)
    assert not is_finished(scores, made_from.replace("gsm8k", "math"))
    publish_parquet(pl.read_parquet(path).with_columns(pl.lit("x").alias("model")), path)
    record_published(path)
    assert not is_finished(scores, scores_made_from(plan.paths, 0, scorer))
