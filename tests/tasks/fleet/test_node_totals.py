"""Totals over nodes: nothing is counted twice, and unknown values are None."""

import datetime
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from profiles.schema import Profile
from tasks.files import publish_parquet, read_json
from tasks.fleet.node_status import NodeAtWork, NodeFacts, NodeStatus
from tasks.fleet.node_totals import join_telemetry, merge_nodes, telemetry_scope
from tasks.generation.generation_log import read_sessions
from tasks.generation.run_counters import RunCounters
from tasks.generation.rung_state import RungChange, RungState
from tasks.node.telemetry import TELEMETRY_SCHEMA
from tasks.node.telemetry_summary import summarize_telemetry
from tasks.plan.run_config import RunConfig
from tasks.plan.run_plan import RunPlan, plan_run
from tasks.records import RunPaths
from tests.support.fake_profile import write_fake_profile

CHANGE = RungChange(
    at="2026-01-01T00:00:00+00:00", from_rung=0, to_rung=1, kind="device", phase="run", reason="CUDA", settings={}
)


@pytest.fixture
def plan(tmp_path: Path) -> RunPlan:
    return plan_run(RunConfig(profile=str(write_fake_profile(tmp_path))), tmp_path / "runs")


def record(plan: RunPlan, name: str, *, sampled: bool = False, **changes: Any) -> NodeAtWork:
    """A node that made 10 rollouts, or what ``changes`` say of its counters and of itself."""
    made = {"rollouts": 10, "tokens": 100, "first_admitted_at": 1000.0, "last_finished_at": 1050.0}
    made |= {key: changes.pop(key) for key in list(changes) if key in made}
    status = {"start_seconds": 20.0, "restarts": 1, "replicas": 2, "gpus": 8}
    status |= {key: changes.pop(key) for key in list(changes) if key in ("rung_changes", "error", "machines")}
    values: dict[str, Any] = {
        "place": 0,
        "nodes": (name,),
        "silent_s": 1.0,
        "name": f"node-{name}",
        "ended": "well",
        "status": NodeStatus(runs={plan.run_id: RunCounters(**made)}, **status),
        "made": [(plan.run_id, 3), (plan.run_id, 1)],
        "facts": NodeFacts(preflight=changes.pop("preflight", None), begun=frozenset()),
        "telemetry": telemetry(0) if sampled else None,
        "logs": "logs",
    }
    return NodeAtWork(**values | changes)


def telemetry(minute: int) -> pl.DataFrame:
    start = datetime.datetime(2026, 1, 1, 0, minute, tzinfo=datetime.UTC)
    rows = [
        {"time": start + datetime.timedelta(seconds=second), "session": start, "source": "gpu", "index": gpu}
        for second in range(10)
        for gpu in range(8)
    ]
    return pl.DataFrame(rows, schema=TELEMETRY_SCHEMA)


def test_two_nodes_are_one_session_as_long_as_the_clock_says(plan: RunPlan) -> None:
    checked = {"worst": "pass", "checks": [{"name": "disk"}], "plan": None}
    records = [
        record(plan, "a", sampled=True, rung_changes=(CHANGE,), preflight=checked),
        record(plan, "b", first_admitted_at=1010.0, last_finished_at=1080.0, ended="lost"),
        # the worker that took the place of the lost one, on the same GPUs
        record(plan, "b", first_admitted_at=None, last_finished_at=None, rollouts=0, tokens=0, ended="failed"),
    ]
    merge_nodes([plan], records)
    [session] = read_sessions(plan.paths.state / "generation.json")
    assert (session.seconds, session.tokens, session.rollouts) == (80.0, 200, 20)
    assert (session.start_seconds, session.restarts, session.gpus) == (60.0, 3, 16)
    assert [(node["node"], node["ended"], node["telemetry"], node["shards"]) for node in session.nodes] == [
        ("node-a", "well", True, [1, 3]),
        ("node-b", "lost", False, [1, 3]),
        ("node-b", "failed", False, [1, 3]),
    ]
    [change] = RungState(plan.paths.state / "oom_ladder.json").changes
    assert (change.node, change.to_rung) == ("node-a", 1)
    assert read_json(plan.paths.preflight)["checks"] == [{"name": "node-a: disk"}]
    assert pl.read_parquet(plan.paths.telemetry).height == 80


def test_the_gpus_of_a_node_in_two_groups_count_once(plan: RunPlan) -> None:
    groups = [("a", "b"), ("c", "d"), ("b", "e")]
    merge_nodes([plan], [record(plan, "+".join(names), machines=names) for names in groups])
    sessions = read_sessions(plan.paths.state / "generation.json")
    assert [node["machines"] for node in sessions[0].nodes] == [list(names) for names in groups]
    # five nodes with four GPUs each
    assert sessions[0].gpus == 20
    publish_parquet(telemetry(0), plan.paths.telemetry)
    assert telemetry_scope(sessions, summarize_telemetry(plan.paths.telemetry, plan.profile)).gpus == 20


def test_each_of_several_runs_gets_a_session_of_its_own_work(plan: RunPlan, tmp_path: Path) -> None:
    other = replace(plan, paths=RunPaths(root=tmp_path / "runs" / "other"))
    one = record(plan, "a")
    status = replace(
        one.status,
        runs={plan.run_id: RunCounters(rollouts=4, tokens=9, first_admitted_at=1.0, last_finished_at=3.0)},
    )
    merge_nodes([plan, other], [replace(one, status=status)])
    [session] = read_sessions(plan.paths.state / "generation.json")
    assert (session.rollouts, session.tokens, session.shared_with) == (4, 9, ("other",))
    assert read_sessions(other.paths.state / "generation.json") == []


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        pytest.param((), {"gpus": 8, "gpu_seconds": 160.0, "elapsed_s": 20.0}, id="one machine"),
        pytest.param(
            (("a", True), ("b", True)),
            {"gpus": 16, "gpu_seconds": 160.0, "cost_usd": 0.16, "cost_usd_per_correct": 0.032, "tokens_per_s": None},
            id="all came back",
        ),
        pytest.param(
            (("a", True), ("b", False)),
            {"gpus": 16, "gpu_seconds": None, "cost_usd": None, "cost_usd_per_correct": None, "elapsed_s": None},
            id="one did not",
        ),
    ],
)
def test_the_summary_says_only_what_is_known_of_all(
    plan: RunPlan, nodes: tuple[tuple[str, bool], ...], expected: dict[str, Any]
) -> None:
    publish_parquet(pl.concat([telemetry(0), telemetry(5)]), plan.paths.telemetry)
    priced = plan.profile.model_copy(update={"gpu_hour_usd": 3.6})
    summary = summarize_telemetry(plan.paths.telemetry, priced, rollouts=10, correct=5)
    before = plan.paths.telemetry.read_bytes()
    merge_nodes([plan], [record(plan, name, sampled=sampled) for name, sampled in nodes])
    plan.paths.telemetry.write_bytes(before)
    told = telemetry_scope(read_sessions(plan.paths.state / "generation.json"), summary)
    assert {name: getattr(told, name) for name in expected} == pytest.approx(expected)
    assert ("none came back from node-b" in (told.note or "")) is (("b", False) in nodes)


START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
SECONDS = 10


def samples(gpus: int, *, utilization: float, late_ms: int = 0, replica: bool = False) -> pl.DataFrame:
    """Ten seconds of a node with so many GPUs, whose sampler began ``late_ms`` milliseconds after the others."""
    rows = []
    for second in range(SECONDS):
        now = {"time": START + datetime.timedelta(seconds=second, milliseconds=late_ms), "session": START}
        load = {"source": "gpu", "utilization_percent": utilization, "memory_used": 1 << 30}
        rows += [now | load | {"index": index} for index in range(gpus)]
        if replica:
            rows.append(now | {"source": "replica", "index": 0, "running": 4, "generation_tokens": 10 * second})
    return pl.DataFrame(rows, schema=TELEMETRY_SCHEMA)


def test_the_gpus_of_all_nodes_of_a_replica_count_for_the_same_seconds(plan: RunPlan) -> None:
    first = samples(2, utilization=90, replica=True)
    others = [samples(2, utilization=70, late_ms=400), samples(2, utilization=80, late_ms=300)]
    joined = join_telemetry([first, *others])
    assert joined is not None
    gpus = joined.filter(pl.col("source") == "gpu")
    assert sorted(gpus["index"].unique()) == [0, 1, 2, 3, 4, 5]
    assert gpus.height == 6 * SECONDS
    publish_parquet(joined, plan.paths.telemetry)
    summary = summarize_telemetry(plan.paths.telemetry, Profile(name="x", gpu_hour_usd=3600.0))
    assert (summary.gpus, summary.elapsed_s, summary.idle_s, summary.generation_tokens) == (6, 10.0, 0.0, 90)
    assert (summary.gpu_seconds, summary.cost_usd, summary.utilization_percent) == (60.0, 60.0, 80.0)


def test_a_part_of_the_telemetry_is_not_taken_for_the_whole() -> None:
    whole = samples(1, utilization=90, replica=True)
    assert join_telemetry([None, whole]) is None
    assert join_telemetry([whole, whole, None]) is None
