"""Merges the nodes' results into the run's own files: sessions, OOM rungs, telemetry and preflight."""

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import polars as pl

from tasks.files import publish_json, publish_parquet
from tasks.fleet.node_status import NodeAtWork
from tasks.generation.generation_log import GenerationSession, add_session
from tasks.generation.run_counters import RunCounters
from tasks.generation.rung_state import RungState
from tasks.node.engine_caches import coldest
from tasks.node.telemetry import load_telemetry
from tasks.node.telemetry_summary import TelemetrySummary
from tasks.plan.run_plan import RunPlan
from tasks.records import shard_of
from tasks.storage.published import recorded_path

_WORST = ("fail", "warn", "pass")
_GPUS = pl.col("source") != "replica"


def merge_nodes(plans: Sequence[RunPlan], records: Sequence[NodeAtWork]) -> None:
    """Add what the nodes told to the directories of the runs.

    They ran at the same time, so together they make one session. The first run has the telemetry and the preflight, as
    it has the engines' logs.
    """
    for plan in plans:
        state = plan.paths.state
        if (session := session_of(plans, plan, records)) is not None:
            add_session(state / "generation.json", session)
        RungState(state / "oom_ladder.json").add_changes(
            replace(change, node=record.name) for record in records for change in record.status.rung_changes
        )
    paths = plans[0].paths
    if sampled := [record.telemetry for record in records if record.telemetry is not None]:
        publish_parquet(pl.concat([load_telemetry(paths.telemetry), *sampled]), paths.telemetry, recorded_path)
    if checked := {record.name: record.facts.preflight for record in records if record.facts.preflight}:
        publish_json(merge_preflights(checked), paths.preflight, recorded_path)


def session_of(plans: Sequence[RunPlan], plan: RunPlan, records: Sequence[NodeAtWork]) -> GenerationSession | None:
    """Return one session of all nodes for one of the ``plans``; None when nothing was generated for it."""
    nodes = [record.status for record in records]
    made = sum((node.runs.get(plan.run_id, RunCounters()) for node in nodes), RunCounters())
    if made.first_admitted_at is None:
        return None
    last = made.last_finished_at or made.first_admitted_at
    # a worker that was replaced on its node had the same engines
    replicas = {record.name: record.status.replicas for record in records}
    return GenerationSession(
        started_at=datetime.datetime.fromtimestamp(made.first_admitted_at, datetime.UTC).isoformat(timespec="seconds"),
        seconds=max(0.0, last - made.first_admitted_at),
        start_seconds=sum(node.start_seconds for node in nodes),
        start_kind=coldest(node.start_kind for node in nodes),
        tokens=made.tokens,
        rollouts=made.rollouts,
        restarts=sum(node.restarts for node in nodes),
        replicas=sum(replicas.values()),
        gpus=_count_gpus((record.name, record.status.machines, record.status.gpus) for record in records),
        shared_with=tuple(other.run_id for other in plans if other is not plan),
        nodes=tuple(_node_totals(plan.run_id, record) for record in records),
    )


def _node_totals(run_id: str, record: NodeAtWork) -> dict[str, Any]:
    status, made = record.status, record.status.runs.get(run_id, RunCounters())
    return {
        "node": record.name,
        "ended": record.ended or "lost",
        "shards": sorted({shard_of(index) for run, index in record.made if run == run_id}),
        "rollouts": made.rollouts,
        "tokens": made.tokens,
        "start_seconds": round(status.start_seconds, 3),
        "start_kind": status.start_kind,
        "restarts": status.restarts,
        "replicas": status.replicas,
        "gpus": status.gpus,
        **({"machines": list(status.machines)} if status.machines else {}),
        "telemetry": record.telemetry is not None,
        "logs": record.logs,
        "error": status.error,
    }


def _count_gpus(engines: Iterable[tuple[str, Sequence[str], int]]) -> int:
    """Return the GPUs of all ``engines``, which are a node, or the machines of a group, and their GPUs; each once."""
    found: dict[str, int] = {}
    for node, machines, gpus in engines:
        found |= dict.fromkeys(machines or (node,), gpus // max(1, len(machines)))
    return sum(found.values())


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
    gpus = _count_gpus((node["node"], node.get("machines", ()), node["gpus"]) for node in nodes)
    changes: dict[str, Any] = {**dict.fromkeys(unknown), "gpus": gpus, "note": note}
    return replace(summary, **changes)


def merge_preflights(checked: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the preflight reports of several nodes, by node, as one with the worst outcome and the first's plan."""
    checks = [
        {**check, "name": f"{node}: {check['name']}"} for node, report in checked.items() for check in report["checks"]
    ]
    found = {report["worst"] for report in checked.values()}
    worst = next((status for status in _WORST if status in found), "pass")
    return {"worst": worst, "checks": checks, "plan": next(iter(checked.values()))["plan"]}


def join_telemetry(frames: Sequence[pl.DataFrame | None]) -> pl.DataFrame | None:
    """Return the telemetry of the nodes of one replica as that of one node with the GPUs of all.

    None when one is missing, as a part would look like the whole. The samples of the others count for the moment of the
    first node's that is nearest: they were taken beside it. Their devices get further indices.
    """
    joined = frames[0]
    if joined is None:
        return None
    moments = joined.select("time", "session").unique().sort("time")
    for frame in frames[1:]:
        if frame is None:
            return None
        further = int(joined.filter(_GPUS)["index"].max() or 0) + 1  # type: ignore[arg-type]  # an Int32 column
        found = frame.filter(_GPUS).drop("session").sort("time")
        placed = found.join_asof(moments.with_columns(moment="time"), on="time", strategy="nearest")
        placed = placed.with_columns(time="moment", index=(pl.col("index") + further).cast(pl.Int32))
        joined = pl.concat([joined, placed.select(joined.columns)])
    return joined.sort("time", maintain_order=True)
