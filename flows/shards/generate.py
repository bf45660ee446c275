"""Generating and scoring what of a run is missing."""

import logging
from dataclasses import dataclass
from pathlib import Path

from prefect.logging import get_run_logger

from flows.reporting.ending import log_tail
from flows.reporting.progress import Progress, stderr_display
from flows.reporting.pulse import Pulse
from flows.reporting.reporter import Reporter
from flows.shards.drive import ShardDriver
from flows.shards.warm_pool import warm_pool
from tasks.generation.recovery import PoolEvent
from tasks.plan.run_plan import RunPlan
from tasks.plan.shards import Shard, is_finished, rollouts_finished, scores_made_from
from tasks.scoring.score_shard import load_scorer

_FAILURES = {"oom": "harvest.oom", "restarted": "harvest.replica.restarted"}
"""Events in Prefect for those of the pool's that are failures."""


@dataclass(frozen=True, kw_only=True)
class Missing:
    """What of a run is left to do; ``generated`` are the shards that have their rollouts, scored or not."""

    to_generate: list[Shard]
    to_score: list[Shard]
    generated: list[Shard]

    def __bool__(self) -> bool:
        return bool(self.to_generate or self.to_score)


def find_missing(plan: RunPlan, shards: list[Shard]) -> Missing:
    to_generate = [shard for shard in shards if not rollouts_finished(plan.paths, shard)]
    generated = [shard for shard in shards if shard not in to_generate]
    to_score = [shard for shard in generated if not _is_scored(plan, shard)]
    return Missing(to_generate=to_generate, to_score=to_score, generated=generated)


def generate_run(plan: RunPlan, shards: list[Shard], upload_url: str | None, reporter: Reporter) -> None:
    """Generate and score what is missing; finished shards are skipped."""
    missing = find_missing(plan, shards)
    done_before = sum(shard.num_rollouts for shard in missing.generated)
    progress = Progress(total=plan.num_rollouts, done_before=done_before)
    display = stderr_display(progress)
    pulse = Pulse(reporter, plan.run_id)
    log = get_run_logger()

    def say(text: str) -> None:
        log.info(text)
        display.say(text)

    def warn(text: str) -> None:
        log.warning(text)
        display.say(f"warning: {text}")

    def tick() -> None:
        display.tick()
        reporter.progress(progress.percent, progress.line())
        pulse.tick(progress.done)

    def on_event(event: PoolEvent) -> None:
        display.event(event)
        report_event(event, plan, reporter)

    if missing.generated:
        say(f"resuming {plan.run_id}: {len(missing.generated)} of {len(shards)} shards are finished and skipped")
    if not missing:
        return
    with pulse, warm_pool(plan, listener=on_event, say=say if missing.to_generate else _say_nothing) as pool:
        progress.counters = pool
        ShardDriver(plan, pool, upload_url, warn=warn).run(
            to_generate=missing.to_generate,
            to_score=missing.to_score,
            on_scored=lambda shard: progress.add_scores(plan.paths.scores(shard.index)),
            on_tick=tick,
        )
    display.close()
    reporter.progress(progress.percent, progress.line(), now=True)


def report_event(event: PoolEvent, plan: RunPlan, reporter: Reporter) -> None:
    """Put what happened to a replica into Prefect's log, and a failure into its events."""
    failed = event.kind in _FAILURES
    get_run_logger().log(logging.WARNING if failed else logging.INFO, "%s: %s", event.kind, event.message)
    if failed:
        reporter.event(_FAILURES[event.kind], plan.run_id, {"message": event.message, **event.details})
        if log_path := event.details.get("log_path"):
            log_tail(Path(log_path))


def _is_scored(plan: RunPlan, shard: Shard) -> bool:
    paths, index = plan.paths, shard.index
    made_from = scores_made_from(paths, index, load_scorer(plan.config.scorer))
    return is_finished(paths, "scores", index, paths.scores(index), made_from)


def _say_nothing(text: str) -> None:
    return
