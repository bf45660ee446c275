"""Merges the nodes' results into the run's own files: sessions, OOM rungs, telemetry and preflight."""

import datetime
import io
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import polars as pl

from tasks.files import publish_json, publish_parquet
from tasks.fleet.node_status import NodeStatus, read_telemetry
from tasks.generation.generation_log import GenerationSession, add_session
from tasks.generation.rung_state import RungChange, RungState
from tasks.node.engine_caches import coldest
from tasks.node.telemetry import load_telemetry, parse_telemetry
from tasks.node.telemetry_summary import TelemetrySummary
from tasks.plan.run_plan import RunPlan
from tasks.storage.object_store import ObjectStore
from tasks.storage.published import recorded_path

_WORST = ("fail", "warn", "pass")


def merge_nodes(store: ObjectStore, plan: RunPlan, statuses: Sequence[NodeStatus]) -> None:
    """Add the nodes' statuses and telemetry files to the run's directory.

    The nodes of one attempt ran at the same time, so together they make one session.
    """
    paths = plan.paths
    telemetry = {status.owner: _telemetry(store, status.owner) for status in statuses}
    for attempt in dict.fromkeys(status.attempt for status in statuses):
        nodes = [status for status in statuses if status.attempt == attempt]
        if any(status.first_admitted_at is not None for status in nodes):
            sampled = {owner for owner, frame in telemetry.items() if frame is not None}
            add_session(paths.state / "generation.json", session_of(nodes, sampled))
    rungs = RungState(paths.state / "oom_ladder.json")
    rungs.add_changes(
        RungChange(**{**change, "node": status.node}) for status in statuses for change in status.rung_changes
    )
    frames = [frame for frame in telemetry.values() if frame is not None]
    if frames:
        publish_parquet(pl.concat([load_telemetry(paths.telemetry), *frames]), paths.telemetry, recorded_path)
    if checked := {status.node: status.preflight for status in statuses if status.preflight}:
        publish_json(_preflight(checked), paths.preflight, recorded_path)


def session_of(nodes: Sequence[NodeStatus], sampled: set[str]) -> GenerationSession:
    """Return one session of all ``nodes``. ``sampled`` are the owners that sent their telemetry."""
    first = min((node.first_admitted_at for node in nodes if node.first_admitted_at is not None), default=0.0)
    last = max((node.last_finished_at for node in nodes if node.last_finished_at is not None), default=first)
    return GenerationSession(
        started_at=datetime.datetime.fromtimestamp(first, datetime.UTC).isoformat(timespec="seconds"),
        seconds=max(0.0, last - first),
        start_seconds=sum(node.start_seconds for node in nodes),
        start_kind=coldest(node.start_kind for node in nodes),
        tokens=sum(node.tokens for node in nodes),
        rollouts=sum(node.rollouts for node in nodes),
        restarts=sum(node.restarts for node in nodes),
        replicas=sum(node.replicas for node in nodes),
        gpus=sum(node.gpus for node in nodes),
        nodes=tuple(_node_totals(node, node.owner in sampled) for node in nodes),
    )


def _node_totals(node: NodeStatus, sampled: bool) -> dict[str, Any]:
    return {
        "node": node.node,
        "flow_run_id": node.owner,
        # a node that wrote no last status counts with the one before
        "ended": {"ended": "well", "failed": "failed"}.get(node.state, "lost"),
        "shards": list(node.published),
        "rollouts": node.rollouts,
        "tokens": node.tokens,
        "start_seconds": round(node.start_seconds, 3),
        "start_kind": node.start_kind,
        "restarts": node.restarts,
        "replicas": node.replicas,
        "gpus": node.gpus,
        "telemetry": sampled,
        "logs": node.logs,
        "error": node.error,
    }


def telemetry_scope(sessions: Sequence[GenerationSession], summary: TelemetrySummary) -> TelemetrySummary:
    """Return ``summary`` for a run on several nodes. A value that some node lacks is None, and ``note`` says so."""
    nodes = [node for session in sessions for node in session.nodes]
    if not nodes:
        return summary
    names = {node["node"] for node in nodes}
    silent = sorted({node["node"] for node in nodes if not node["telemetry"]})
    note = (
        f"sampled on each of {len(names)} nodes: means are per node, elapsed_s, idle_s and GPU seconds add up over the "
        "nodes; for tokens per second of all see generation"
    )
    unknown: list[str] = ["tokens_per_s"]
    if silent:
        note += f"; none came back from {', '.join(silent)}, so totals are not known"
        unknown += ["elapsed_s", "idle_s", "preemptions", "generation_tokens"]
        unknown += [item.name for item in fields(summary) if item.name.startswith(("gpu_seconds", "cost_usd"))]
    gpus = {node["node"]: node["gpus"] for node in nodes}
    changes: dict[str, Any] = {**dict.fromkeys(unknown), "gpus": sum(gpus.values()), "note": note}
    return replace(summary, **changes)


def _telemetry(store: ObjectStore, owner: str) -> pl.DataFrame | None:
    data = read_telemetry(store, owner)
    if data is None:
        return None
    try:
        return parse_telemetry(io.BytesIO(data))
    except ValueError:
        return None


def _preflight(checked: dict[str, dict[str, Any]]) -> dict[str, Any]:
    checks = [
        {**check, "name": f"{node}: {check['name']}"} for node, report in checked.items() for check in report["checks"]
    ]
    found = {report["worst"] for report in checked.values()}
    worst = next((status for status in _WORST if status in found), "pass")
    return {"worst": worst, "checks": checks, "plan": next(iter(checked.values()))["plan"]}
