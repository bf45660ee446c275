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
    worker.begin(NodeOrder.of([plan]))
    worker.give(ShardOrder(run_id=plan.run_id, shard=shard, questions=plan.paths.questions(0).read_bytes()))
    news: list[object] = []

    def report(ahead: float = 0.0) -> NodeReport:
        told = worker.report(SHORT_SECONDS, time.time() + ahead)
        news.extend(told.news)
        return told

    until(lambda: report() and any(isinstance(item, MadeShard) for item in news), "the shard is made")
    here, there = report().status, report(HOUR).status
    [change], [later] = here.rung_changes, there.rung_changes
    assert _hours(_seconds(later.at) - _seconds(change.at)) == 1
    made, made_there = here.runs[plan.run_id], there.runs[plan.run_id]
    assert made.rollouts == made_there.rollouts == 32
    for first, second in (
        (made.first_admitted_at, made_there.first_admitted_at),
        (made.last_finished_at, made_there.last_finished_at),
    ):
        assert first is not None
        assert second is not None
        assert _hours(second - first) == 1
        assert _hours(first - time.time()) == 0
    samples, samples_there = worker.end(time.time()), worker.end(time.time() + HOUR)
    assert samples is not None
    assert samples_there is not None
    for column in ("time", "session"):
        moved = samples_there[column] - samples[column]
        assert {_hours(each.total_seconds()) for each in moved} == {1}
    assert report().status.state == "ended"


def _seconds(at: str) -> float:
    return datetime.datetime.fromisoformat(at).timestamp()


def _hours(seconds: float) -> int:
    return round(seconds / HOUR)
