"""Totals over nodes: nothing is counted twice, and unknown values are None."""

import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tasks.files import publish_parquet, read_json
from tasks.fleet.node_status import NodeStatus, read_statuses, telemetry_key, write_status
from tasks.fleet.node_totals import merge_nodes, telemetry_scope
from tasks.generation.generation_log import read_sessions
from tasks.generation.rung_state import RungState
from tasks.node.telemetry import TELEMETRY_SCHEMA
from tasks.node.telemetry_summary import summarize_telemetry
from tasks.plan.run_config import RunConfig
from tasks.plan.run_plan import RunPlan, plan_run
from tasks.storage.destination import open_store
from tests.support.fake_profile import write_fake_profile

CHANGE = {
    "at": "2026-01-01T00:00:00+00:00",
    "from_rung": 0,
    "to_rung": 1,
    "kind": "device",
    "phase": "run",
    "reason": "CUDA",
    "settings": {},
    "node": None,
}


@pytest.fixture
def plan(tmp_path: Path) -> RunPlan:
    return plan_run(RunConfig(profile=str(write_fake_profile(tmp_path))), tmp_path / "runs")


def record(owner: str, **changes: Any) -> NodeStatus:
    values: dict[str, Any] = {
        "owner": owner,
        "node": f"node-{owner}",
        "attempt": "one",
        "state": "ended",
        "beat": 1,
        "lease_s": 60.0,
        "logs": "logs",
        "rollouts": 10,
        "tokens": 100,
        "start_seconds": 20.0,
        "restarts": 1,
        "replicas": 2,
        "gpus": 8,
        "first_admitted_at": 1000.0,
        "last_finished_at": 1050.0,
    }
    return NodeStatus(**values | changes)


def telemetry(minute: int) -> pl.DataFrame:
    start = datetime.datetime(2026, 1, 1, 0, minute, tzinfo=datetime.UTC)
    rows = [
        {"time": start + datetime.timedelta(seconds=second), "session": start, "source": "gpu", "index": gpu}
        for second in range(10)
        for gpu in range(8)
    ]
    return pl.DataFrame(rows, schema=TELEMETRY_SCHEMA)


def test_two_nodes_are_one_session_as_long_as_the_clock_says(plan: RunPlan, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "shared"))
    written = [
        record("a", rung_changes=(CHANGE,), preflight={"worst": "pass", "checks": [{"name": "disk"}], "plan": None}),
        record("b", first_admitted_at=1010.0, last_finished_at=1080.0, state="generating"),
        record("c", first_admitted_at=None, last_finished_at=None, rollouts=0, tokens=0, state="failed"),
    ]
    for item in written:
        write_status(store, item)
    records = read_statuses(store, ["a", "b", "c", "never-wrote"])
    assert [item.owner for item in records] == ["a", "b", "c"]
    publish_parquet(telemetry(0), tmp_path / "telemetry.parquet")
    store.put_bytes(telemetry_key("a"), (tmp_path / "telemetry.parquet").read_bytes(), "")

    merge_nodes(store, plan, records)
    [session] = read_sessions(plan.paths.state / "generation.json")
    assert (session.seconds, session.tokens, session.rollouts) == (80.0, 200, 20)
    assert (session.start_seconds, session.restarts, session.gpus) == (60.0, 3, 24)
    assert [(node["node"], node["ended"], node["telemetry"]) for node in session.nodes] == [
        ("node-a", "well", True),
        ("node-b", "lost", False),
        ("node-c", "failed", False),
    ]
    [change] = RungState(plan.paths.state / "oom_ladder.json").changes
    assert (change.node, change.to_rung) == ("node-a", 1)
    assert read_json(plan.paths.preflight)["checks"] == [{"name": "node-a: disk"}]
    assert pl.read_parquet(plan.paths.telemetry).height == 80


def test_attempts_are_sessions_of_their_own(plan: RunPlan, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "shared"))
    later = record("b", attempt="two", first_admitted_at=9000.0, last_finished_at=9010.0)
    merge_nodes(store, plan, [record("a"), later])
    assert [session.seconds for session in read_sessions(plan.paths.state / "generation.json")] == [50.0, 10.0]


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        pytest.param((), {"gpus": 8, "gpu_seconds": 160.0, "elapsed_s": 20.0}, id="one machine"),
        pytest.param(
            (("a", True), ("b", True)), {"gpus": 16, "gpu_seconds": 160.0, "tokens_per_s": None}, id="all came back"
        ),
        pytest.param(
            (("a", True), ("b", False)),
            {"gpus": 16, "gpu_seconds": None, "cost_usd": None, "elapsed_s": None, "tokens_per_s": None},
            id="one did not",
        ),
    ],
)
def test_the_summary_says_only_what_is_known_of_all(
    plan: RunPlan, tmp_path: Path, nodes: tuple[tuple[str, bool], ...], expected: dict[str, Any]
) -> None:
    publish_parquet(pl.concat([telemetry(0), telemetry(5)]), plan.paths.telemetry)
    summary = summarize_telemetry(plan.paths.telemetry, plan.profile, rollouts=10, correct=5)
    store = open_store(str(tmp_path / "shared"))
    for owner, sampled in nodes:
        if sampled:
            publish_parquet(telemetry(0), tmp_path / "telemetry.parquet")
            store.put_bytes(telemetry_key(owner), (tmp_path / "telemetry.parquet").read_bytes(), "")
    before = plan.paths.telemetry.read_bytes()
    merge_nodes(store, plan, [record(owner) for owner, _ in nodes])
    plan.paths.telemetry.write_bytes(before)
    told = telemetry_scope(read_sessions(plan.paths.state / "generation.json"), summary)
    assert {name: getattr(told, name) for name in expected} == expected
    assert ("none came back from node-b" in (told.note or "")) is (("b", False) in nodes)
