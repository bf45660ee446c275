"""What a finished run came to: report.json, from the files of the run alone."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from profiles.schema import Profile
from tasks.files import publish_json, read_json
from tasks.fleet.node_accounts import telemetry_scope
from tasks.generation.generation_log import read_sessions
from tasks.generation.oom_ladder import RungState
from tasks.node.telemetry_summary import summarize_telemetry
from tasks.records import RunPaths
from tasks.results.finished_run import read_config
from tasks.results.metrics import run_metrics
from tasks.results.scored_rollouts import load_metric_rows


def summarize_run(run_dir: Path) -> dict[str, Any]:
    """Make report.json from config.json and the published shards of the run, publish and return it."""
    paths = RunPaths(root=run_dir)
    plan = read_config(run_dir)
    rows = load_metric_rows(paths, repetition=True)
    metrics = run_metrics(rows)
    order = [arm["id"] for arm in plan["arms"]]
    equivalence = read_json(paths.equivalence)
    report: dict[str, Any] = {
        "run_id": paths.run_id,
        "run_dir": str(paths.root),
        "fingerprint": plan["fingerprint"],
        "profile": plan["profile"]["name"],
        "model": plan["model"]["name"],
        "dataset": plan["config"]["dataset"]["path"],
        "num_questions": plan["num_questions"],
        "num_rollouts": rows.height,
        "num_errors": int(rows["error"].is_not_null().sum()),
        "errors": _error_counts(rows),
        "gold_suspects": rows.filter("gold_suspect")["example_id"].n_unique(),
        "mean_reward": metrics.overall.mean_reward,
        "mean_reward_without_suspects": metrics.overall.mean_reward_without_suspects,
        "overall": asdict(metrics.overall),
        "arms": sorted((asdict(arm) for arm in metrics.arms), key=lambda arm: order.index(arm["arm_id"])),
        "contrasts": [asdict(contrast) for contrast in metrics.contrasts],
        "generation": _generation(paths),
        "telemetry": _telemetry(paths, Profile.model_validate(plan["profile"]), rows),
        "oom_ladder": [asdict(change) for change in RungState(paths.state / "oom_ladder.json").changes],
        "rollouts_per_rung": {str(rung): count for rung, count in _per_rung(rows)},
        "equivalence": equivalence and {key: equivalence.get(key) for key in ("verdict", "reason", "baseline")},
    }
    publish_json(report, paths.report)
    return report


def _error_counts(rows: pl.DataFrame) -> list[dict[str, Any]]:
    """The most frequent errors; those that differ only in their numbers count as one."""
    errors = rows.select(error=pl.col("error").drop_nulls().str.replace_all(r"\d+", "N"))
    return errors["error"].value_counts(sort=True).head(20).to_dicts()


def _per_rung(rows: pl.DataFrame) -> list[tuple[Any, ...]]:
    return rows.group_by("oom_rung").len().sort("oom_rung").rows()


def _generation(paths: RunPaths) -> dict[str, Any]:
    sessions = read_sessions(paths.state / "generation.json")
    seconds = sum(session.seconds for session in sessions)
    tokens = sum(session.tokens for session in sessions)
    return {
        "seconds": round(seconds, 3),
        "start_seconds": round(sum(session.start_seconds for session in sessions), 3),
        "tokens": tokens,
        "tokens_per_second": round(tokens / seconds, 1) if seconds else None,
        "restarts": sum(session.restarts for session in sessions),
        "sessions": [asdict(session) for session in sessions],
    }


def _telemetry(paths: RunPaths, profile: Profile, rows: pl.DataFrame) -> dict[str, Any] | None:
    if not paths.telemetry.is_file():
        return None
    correct = int((rows["reward"] == 1).sum())
    summary = summarize_telemetry(paths.telemetry, profile, rollouts=rows.height, correct=correct).to_json()
    return telemetry_scope(read_sessions(paths.state / "generation.json"), summary)
