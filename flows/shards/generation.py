"""Generates and scores the shards that one run still lacks, or several that share engines: here, or on nodes."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial

from prefect.logging import get_run_logger

from flows.parameters import FlowParameters
from flows.reporting.generation_events import GenerationEvents, report_pool_event
from flows.reporting.progress import FlowLog, Progress, open_display
from flows.reporting.reporter import Reporter
from flows.reporting.run_tracking import RunTracking
from flows.shards.run_shard import RunShard, by_weights, in_turn
from flows.shards.shard_pipeline import ShardPipeline
from tasks.fleet.node_session import ShardPool, node_session
from tasks.fleet.ray_address import on_nodes
from tasks.generation.generation_session import generation_session
from tasks.generation.recovery import PoolEvent
from tasks.plan.run_plan import RunPlan
from tasks.plan.shards import Shard, find_remaining


def generate_missing(
    plans: Sequence[RunPlan],
    shards: Mapping[str, list[Shard]],
    asked: FlowParameters,
    reporter: Reporter,
    tracking: RunTracking,
) -> None:
    """Generate and score the unfinished ``shards``, which are by run id; upload each if that is asked for.

    The plans differ in their policies only. The first stands for all in the events.
    """
    remaining = {plan.run_id: find_remaining(plan, shards[plan.run_id]) for plan in plans}
    done_before = sum(shard.num_rollouts for left in remaining.values() for shard in left.generated)
    progress = Progress(total=sum(plan.num_rollouts for plan in plans), done_before=done_before)
    display = open_display(progress)
    log = FlowLog(display)
    first = plans[0].run_id
    events = GenerationEvents(reporter, first)

    def show_progress(pool: ShardPool) -> None:
        display.refresh()
        reporter.progress(progress.percent, progress.line())
        events.progressed(progress.done)
        tracking.live(progress, pool)

    def on_pool_event(event: PoolEvent) -> None:
        display.print_line(f"{event.kind}: {event.message}")
        report_pool_event(event, first, reporter)

    def on_scored(item: RunShard) -> None:
        progress.add_scores(item.plan.paths.scores(item.shard.index))

    for run_id, left in remaining.items():
        if left.generated:
            finished = f"{len(left.generated)} of {len(shards[run_id])} shards are finished and skipped"
            log.info(f"resuming {run_id}: {finished}")
    if not any(remaining.values()):
        return
    to_generate = list(by_weights([(plan, remaining[plan.run_id].to_generate) for plan in plans]))
    # the session's messages are about generation, so a run that only scores shows none of them
    say = log.info if to_generate else get_run_logger().debug
    session: Callable[..., AbstractContextManager[ShardPool]] = generation_session
    if to_generate and on_nodes(asked.nodes, asked.ray):
        session = partial(node_session, nodes=asked.nodes, ray=asked.ray, forget_oom_rung=asked.forget_oom_rung)
    with events, session(plans, listener=on_pool_event, log=say) as pool:
        progress.counters = pool
        ShardPipeline(plans, pool, asked.upload, warn=log.warning).run(
            to_generate=to_generate,
            to_score=in_turn([(plan, remaining[plan.run_id].to_score) for plan in plans]),
            on_scored=on_scored,
            on_tick=lambda: show_progress(pool),
        )
        tracking.live(progress, pool, now=True)
    display.close()
    reporter.progress(progress.percent, progress.line(), now=True)
