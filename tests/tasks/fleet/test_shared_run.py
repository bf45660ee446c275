"""What nodes are told through shared storage, what they refuse, and what is taken back from them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tasks.errors import ConfigError
from tasks.fleet.ledger import RUN, Ledger, finished_key, rollouts_key
from tasks.fleet.shared_run import check_nodes, fetch_shard, publish_order, receive_order, unpack_questions
from tasks.plan.run_config import RunConfig
from tasks.plan.run_plan import RunPlan, plan_run
from tasks.plan.sampling import Sampling
from tasks.plan.shards import Shard, rollouts_finished, shard_dataset
from tasks.records import ROLLOUT_SCHEMA
from tasks.storage.destination import open_store
from tests.support.fake_profile import write_fake_profile


@pytest.fixture
def plan(tmp_path: Path) -> RunPlan:
    config = RunConfig(profile=str(write_fake_profile(tmp_path)), shard_size=4, sampling=Sampling(max_tokens=16))
    return plan_run(config, tmp_path / "runs")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(open_store(str(tmp_path / "shared")), owner="a", node="node-a", lease_s=60)


def test_a_node_plans_the_run_that_was_planned(plan: RunPlan, ledger: Ledger, tmp_path: Path) -> None:
    shards = shard_dataset(plan)[3:6]
    publish_order(ledger.store, plan, shards, nodes=2)
    order = receive_order(ledger.store, plan.run_id, tmp_path / "scratch")
    assert (order.plan.fingerprint, order.plan.run_id, order.nodes) == (plan.fingerprint, plan.run_id, 2)
    assert list(order.shards) == shards
    assert (order.plan.profile, order.plan.arms, order.plan.config) == (plan.profile, plan.arms, plan.config)
    unpack_questions(order)
    for shard in shards:
        there = pl.read_parquet(order.plan.paths.questions(shard.index))
        assert there.equals(pl.read_parquet(plan.paths.questions(shard.index)))


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        pytest.param("comparable", "model", "0" * 16, id="other weights"),
        pytest.param("comparable", "chat_template", "0" * 16, id="another chat template"),
        pytest.param("tested", "versions", {"vllm": "0.1"}, id="another engine"),
    ],
)
def test_a_node_that_would_answer_otherwise_refuses(
    plan: RunPlan, ledger: Ledger, tmp_path: Path, part: str, name: str, value: Any
) -> None:
    publish_order(ledger.store, plan, shard_dataset(plan)[:1], nodes=2)
    order = json.loads(ledger.store.read(RUN) or b"")
    order["plan"][part][name] = value
    ledger.store.put_bytes(RUN, json.dumps(order).encode(), "")
    with pytest.raises(ConfigError, match=f"would generate other rollouts.*{name} is"):
        receive_order(ledger.store, plan.run_id, tmp_path / "scratch")


def test_an_order_that_is_not_there_and_one_of_another_run(plan: RunPlan, ledger: Ledger, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no run"):
        receive_order(ledger.store, plan.run_id, tmp_path)
    ledger.store.put_bytes(RUN, b'{"plan": {"fingerprint": "another"}}', "")
    with pytest.raises(ConfigError, match="holds another run"):
        publish_order(ledger.store, plan, [], nodes=2)


def rollouts(plan: RunPlan, shard: Shard) -> pl.DataFrame:
    """The shard's rows with nothing but their keys filled in."""
    questions = plan.questions.slice(shard.index * plan.shard_size, shard.num_questions)
    rows = [
        {"run_id": plan.run_id, "example_id": example_id, "arm_id": arm.id, "sample_index": 0}
        for example_id in questions["example_id"]
        for arm in plan.arms.arms
    ]
    return pl.DataFrame(rows, schema=ROLLOUT_SCHEMA)


def publish(ledger: Ledger, folder: Path, shard: Shard, frame: pl.DataFrame) -> None:
    frame.write_parquet(folder / "made.parquet")
    assert ledger.publish(shard.index, folder / "made.parquet", "f")


def test_a_finished_shard_is_fetched_as_if_it_were_made_here(plan: RunPlan, ledger: Ledger, tmp_path: Path) -> None:
    shard = shard_dataset(plan)[1]
    publish(ledger, tmp_path, shard, rollouts(plan, shard))
    assert not rollouts_finished(plan.paths, shard)
    assert fetch_shard(ledger, plan, shard) == "node-a"
    assert rollouts_finished(plan.paths, shard)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda rows: rows.head(-1), id="a row is missing"),
        pytest.param(lambda rows: pl.concat([rows.head(-1), rows.head(1)]), id="a row is there twice"),
        pytest.param(lambda rows: rows.with_columns(run_id=pl.lit("another")), id="rows of another run"),
        pytest.param(lambda rows: rows.with_columns(sample_index=pl.lit(1, pl.Int32)), id="other samples"),
        pytest.param(lambda rows: rows.drop("seed"), id="a column is missing"),
    ],
)
def test_what_is_not_the_shard_is_not_taken_and_wanted_again(
    plan: RunPlan,
    ledger: Ledger,
    tmp_path: Path,
    spoil: Callable[[pl.DataFrame], pl.DataFrame],
) -> None:
    shard = shard_dataset(plan)[1]
    publish(ledger, tmp_path, shard, spoil(rollouts(plan, shard)))
    assert fetch_shard(ledger, plan, shard, pause_s=0) is None
    assert not plan.paths.rollouts(shard.index).exists()
    assert ledger.look().finished == frozenset()


@pytest.mark.parametrize("damage", ["other bytes", "gone", "cut short"])
def test_damaged_bytes_are_not_taken(plan: RunPlan, ledger: Ledger, tmp_path: Path, damage: str) -> None:
    shard = shard_dataset(plan)[0]
    publish(ledger, tmp_path, shard, rollouts(plan, shard))
    key = rollouts_key(shard.index)
    data = ledger.store.read(key) or b""
    if damage == "gone":
        ledger.store.delete(key)
    else:
        changed = data[:-1] if damage == "cut short" else data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]
        ledger.store.put_bytes(key, changed, "")
    assert fetch_shard(ledger, plan, shard, pause_s=0) is None
    assert ledger.store.head(finished_key(shard.index)) is None


@pytest.mark.parametrize(
    ("nodes", "shared", "baseline", "told"),
    [
        pytest.param(2, None, None, "Set shared to a directory", id="nothing shared"),
        pytest.param(2, "runs/shared", None, "an absolute path", id="relative"),
        pytest.param(1, "shared", None, "an absolute path", id="relative for one"),
        pytest.param(2, "/tmp", "auto", "Collect the baseline first", id="a baseline to generate"),
        pytest.param(2, "s3://", None, "names no bucket", id="no bucket"),
    ],
)
def test_what_cannot_work_over_nodes_is_refused(
    nodes: int, shared: str | None, baseline: str | None, told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        check_nodes(nodes, shared, baseline)


def test_what_can_work_is_let_pass(tmp_path: Path) -> None:
    check_nodes(1, None, "auto")
    check_nodes(2, str(tmp_path / "new"), "some-run")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
