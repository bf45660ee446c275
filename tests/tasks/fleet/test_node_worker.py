"""A node's worker in this process: what it reports, and on whose clock."""

import datetime
import time
from pathlib import Path

import pytest

from tasks.fleet.node_order import NodeOrder
from tasks.fleet.node_status import MadeShard, NodeReport, ShardOrder
from tasks.fleet.node_worker import NodeWorker
from tasks.plan.run_config import config_from_parameters
from tasks.plan.run_plan import plan_run
from tasks.plan.shards import shard_dataset
from tests.support.fake_profile import write_fake_profile
from tests.support.patience import SHORT_SECONDS, until

HOUR = 3600.0


def test_the_times_of_a_node_are_on_the_clock_of_the_collection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # halves its batch once
    monkeypatch.setenv("MEMORY_LIMIT", "30")
    monkeypatch.setenv("HARVEST_HOME", str(tmp_path / "home"))
    profile = write_fake_profile(tmp_path, backend="tests.support.fake_engines:CrowdedEngine")
    given = {"profile": str(profile), "questions": 4, "shard_size": 4}
    plan = plan_run(config_from_parameters(given), tmp_path / "runs")
    [shard] = shard_dataset(plan)
    worker = NodeWorker()
    worker.begin(NodeOrder.of([plan]), time.time() + HOUR)
    worker.give(ShardOrder(run_id=plan.run_id, shard=shard, questions=plan.paths.questions(0).read_bytes()))
    news: list[object] = []

    def report() -> NodeReport:
        told = worker.report(SHORT_SECONDS)
        news.extend(told.news)
        return told

    until(lambda: report() and any(isinstance(item, MadeShard) for item in news), "the shard is made")
    status = report().status
    [change], made, samples = status.rung_changes, status.runs[plan.run_id], worker.end()
    assert made.rollouts == 32
    assert made.first_admitted_at is not None
    assert made.last_finished_at is not None
    assert samples is not None
    sampled = [moment.timestamp() for column in ("time", "session") for moment in samples[column]]
    for moment in (_seconds(change.at), made.first_admitted_at, made.last_finished_at, *sampled):
        assert round((moment - time.time()) / HOUR) == 1
    assert report().status.state == "ended"


def _seconds(at: str) -> float:
    return datetime.datetime.fromisoformat(at).timestamp()
