"""Generating and scoring what of a run is missing."""

import datetime
import logging
from pathlib import Path

from prefect.logging import get_run_logger

from flows.drive import ShardDriver
from flows.ending import log_tail
from flows.progress import Progress, ProgressDisplay, stderr_display
from flows.pulse import Pulse
from flows.reporter import Reporter
from tasks.generation_log import GenerationSession, add_session
from tasks.oom_ladder import RungState
from tasks.recovery import PoolEvent
from tasks.replica_pool import ReplicaPool
from tasks.run_plan import RunPlan
from tasks.rung_memory import recall_rung, remember_rung
from tasks.scoring import load_scorer
from tasks.shards import Shard, is_finished, rollouts_finished, scores_made_from
from tasks.telemetry import ReplicaStats, TelemetrySampler

_FAILURES = {"oom": "harvest.oom", "restarted": "harvest.replica.restarted"}
"""Events in Prefect for those of the pool's that are failures."""


def generate_run(plan: RunPlan, shards: list[Shard], upload_url: str | None, reporter: Reporter) -> None:
    """Generate and score what is missing; finished shards are skipped."""
    paths = plan.paths
    to_generate = [shard for shard in shards if not rollouts_finished(paths, shard)]
    generated = [shard for shard in shards if shard not in to_generate]
    to_score = [shard for shard in generated if not _is_scored(plan, shard)]
    progress = Progress(total=plan.num_rollouts, done_before=sum(shard.num_rollouts for shard in generated))
    display = stderr_display(progress)
    pulse = Pulse(reporter, plan.run_id)
    log = get_run_logger()

    def say(text: str) -> None:
        log.info(text)
        display.say(text)

    def tick() -> None:
        display.tick()
        reporter.progress(progress.percent, progress.line())
        pulse.tick(progress.done)

    if generated:
        say(f"resuming {plan.run_id}: {len(generated)} of {len(shards)} shards are finished and skipped")
    if not to_generate and not to_score:
        return
    rung = RungState(paths.state / "oom_ladder.json")
    rung.begin_at(recall_rung(plan))
    pool = ReplicaPool(plan, rung=rung, listener=lambda event: _on_event(event, plan, display, reporter))
    if to_generate and rung.rung:
        say(
            f"beginning at rung {rung.rung} of the OOM ladder (question batch {pool.rung.question_batch_size}), which "
            "memory allowed before; --forget-oom-rung begins at the full batch"
        )
    with TelemetrySampler(paths.telemetry, plan.profile, lambda: _replica_stats(pool)), pulse, pool:
        progress.pool = pool
        try:
            ShardDriver(plan, pool, upload_url).run(
                to_generate=to_generate,
                to_score=to_score,
                on_scored=lambda shard: progress.add_scores(paths.scores(shard.index)),
                on_tick=tick,
            )
        finally:
            _log_session(plan, pool)
        remember_rung(plan, rung.rung)
    display.close()
    reporter.progress(progress.percent, progress.line(), now=True)


def _is_scored(plan: RunPlan, shard: Shard) -> bool:
    paths, index = plan.paths, shard.index
    made_from = scores_made_from(paths, index, load_scorer(plan.config.scorer))
    return is_finished(paths, "scores", index, paths.scores(index), made_from)


def _on_event(event: PoolEvent, plan: RunPlan, display: ProgressDisplay, reporter: Reporter) -> None:
    failed = event.kind in _FAILURES
    get_run_logger().log(logging.WARNING if failed else logging.INFO, "%s: %s", event.kind, event.message)
    display.event(event)
    if failed:
        reporter.event(_FAILURES[event.kind], plan.run_id, {"message": event.message, **event.details})
        if log_path := event.details.get("log_path"):
            log_tail(Path(log_path))


def _log_session(plan: RunPlan, pool: ReplicaPool) -> None:
    if pool.first_admitted_at is None or pool.last_finish_at is None:
        return
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    session = GenerationSession(
        started_at=now,
        seconds=pool.last_finish_at - pool.first_admitted_at,
        start_seconds=pool.engine_start_seconds,
        tokens=pool.tokens_generated,
        rollouts=pool.rollouts_finished,
        restarts=pool.restarts,
        replicas=plan.profile.replicas,
        gpus=plan.profile.replicas * plan.profile.engine.tensor_parallel_size
        if plan.profile.expect.device == "cuda"
        else 0,
    )
    add_session(plan.paths.state / "generation.json", session)


def _replica_stats(pool: ReplicaPool) -> list[ReplicaStats]:
    return [
        ReplicaStats(
            replica=status.index,
            running=status.stats.running,
            waiting=status.stats.waiting,
            kv_cache_usage=status.stats.kv_cache_usage,
            preemptions=status.stats.preemptions,
            prefix_cache_hits=status.stats.prefix_cache_hits,
            prefix_cache_queries=status.stats.prefix_cache_queries,
            generation_tokens=status.stats.generation_tokens,
        )
        for status in pool.status()
    ]
