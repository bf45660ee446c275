"""Generates and scores on this node the shards that a run still lacks."""

from prefect.logging import get_run_logger

from flows.reporting.generation_events import GenerationEvents, report_pool_event
from flows.reporting.progress import FlowLog, Progress, open_display
from flows.reporting.reporter import Reporter
from flows.shards.generation_session import generation_session
from flows.shards.shard_pipeline import ShardPipeline
from tasks.generation.recovery import PoolEvent
from tasks.plan.run_plan import RunPlan
from tasks.plan.shards import Shard, find_remaining


def generate_locally(plan: RunPlan, shards: list[Shard], upload_url: str | None, reporter: Reporter) -> None:
    """Generate and score the unfinished ``shards``, and upload each to ``upload_url`` if there is one."""
    remaining = find_remaining(plan, shards)
    done_before = sum(shard.num_rollouts for shard in remaining.generated)
    progress = Progress(total=plan.num_rollouts, done_before=done_before)
    display = open_display(progress)
    log = FlowLog(display)
    events = GenerationEvents(reporter, plan.run_id)

    def show_progress() -> None:
        display.refresh()
        reporter.progress(progress.percent, progress.line())
        events.progressed(progress.done)

    def on_pool_event(event: PoolEvent) -> None:
        display.print_line(f"{event.kind}: {event.message}")
        report_pool_event(event, plan.run_id, reporter)

    if remaining.generated:
        log.info(f"resuming {plan.run_id}: {len(remaining.generated)} of {len(shards)} shards are finished and skipped")
    if not remaining:
        return
    # the session's messages are about generation, so a run that only scores shows none of them
    say = log.info if remaining.to_generate else get_run_logger().debug
    with events, generation_session(plan, listener=on_pool_event, log=say) as pool:
        progress.counters = pool
        ShardPipeline(plan, pool, upload_url, warn=log.warning).run(
            to_generate=remaining.to_generate,
            to_score=remaining.to_score,
            on_scored=lambda shard: progress.add_scores(plan.paths.scores(shard.index)),
            on_tick=show_progress,
        )
    display.close()
    reporter.progress(progress.percent, progress.line(), now=True)
