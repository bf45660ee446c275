"""Generates and scores the shards that one run still lacks, or several that share engines: here, or on nodes."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial

from prefect.logging import get_run_logger

from flows.live.figures import GENERATION, Figures
from flows.parameters import FlowParameters
from flows.reporting.generation_events import GenerationEvents, report_pool_event
from flows.reporting.progress import READ_SECONDS, FlowLog, Progress, display_of_flow
from flows.reporting.reporter import Reporter
from flows.reporting.run_tracking import RunTracking
from flows.shards.run_shard import RunShard, by_weights, in_turn
from flows.shards.shard_pipeline import ShardPipeline
from flows.shards.shard_waves import ShardWaves
from flows.shards.stage_order import StageOrder
from tasks.fleet.node_pool import ShardPool, node_session
from tasks.fleet.ray_address import on_nodes
from tasks.generation.generation_session import generation_session
from tasks.generation.recovery import PoolEvent
from tasks.node.gpu_selection import read_used_gpus
from tasks.node.nvml import PynvmlReader
from tasks.plan.run_plan import RunPlan
from tasks.plan.shards import RemainingShards, Shard
from tasks.plan.waves import find_remaining
from tasks.results.rewards_so_far import RewardsSoFar
from tasks.results.run_end import forget_end
from tasks.scoring.scorer_process import kept_processes


def generate_missing(
    plans: Sequence[RunPlan],
    shards: Mapping[str, list[Shard]],
    asked: FlowParameters,
    reporter: Reporter,
    order: StageOrder,
    tracking: RunTracking,
) -> None:
    """Generate and score the unfinished ``shards``, which are by run id; upload each if that is asked for.

    The plans differ in their policies only. The first stands for all in the events. In ``order``, the stages after this
    follow the scores.
    """
    for plan in plans:
        forget_end(plan.paths.root)
    remaining = {plan.run_id: find_remaining(plan, shards[plan.run_id]) for plan in plans}
    done_before = sum(
        left.rollouts_begun + sum(shard.num_rollouts for shard in left.generated) for left in remaining.values()
    )
    progress = Progress(
        total=sum(plan.num_rollouts for plan in plans),
        done_before=done_before,
        rewards=RewardsSoFar(several=len(plans) > 1),
    )
    display = display_of_flow()
    log = FlowLog(display)
    first = plans[0].run_id
    figures = _figures(plans, progress)
    events = GenerationEvents(reporter, first)

    def show_progress(pool: ShardPool, waves: ShardWaves) -> None:
        progress.total = waves.num_expected
        progress.rewards.read(READ_SECONDS)
        display.progress(progress.line())
        reporter.progress(progress.percent, progress.line())
        events.progressed(progress.done)
        tracking.live(progress, pool)

    def on_pool_event(event: PoolEvent) -> None:
        display.print_line(f"{event.kind}: {event.message}")
        report_pool_event(event, first, reporter)

    def on_scored(item: RunShard) -> None:
        progress.rewards.add(item.plan.paths, item.shard.index)

    for plan in plans:
        run_id, left = plan.run_id, remaining[plan.run_id]
        for shard in left.generated:
            if shard not in left.to_score:
                progress.rewards.add(plan.paths, shard.index)
        if left.generated:
            finished = f"{len(left.generated)} of {len(shards[run_id])} shards are finished and skipped"
            log.info(f"resuming {run_id}: {finished}")
    if not any(remaining.values()):
        return
    to_generate = list(by_weights([(plan, remaining[plan.run_id].to_generate) for plan in plans]))
    # the session's messages are about generation, so a run that only scores shows none of them
    say = log.info if to_generate else get_run_logger().debug
    session: Callable[..., AbstractContextManager[ShardPool]] = partial(generation_session, on_sample=figures.sampled)
    if to_generate and on_nodes(asked.nodes, asked.ray):
        session = partial(node_session, nodes=asked.nodes, ray=asked.ray, forget_oom_rung=asked.forget_oom_rung)
    display.watch.follow(figures.fill)
    display.watch.enter(GENERATION)
    with events, kept_processes(), session(plans, listener=on_pool_event, log=say) as pool:
        progress.counters = figures.pool = pool
        waves = _waves(plans, pool, shards, remaining)
        ShardPipeline(plans, pool, waves, asked.upload, order, warn=log.warning).run(
            to_generate=to_generate,
            to_score=in_turn([(plan, remaining[plan.run_id].to_score) for plan in plans]),
            on_scored=on_scored,
            on_tick=lambda: show_progress(pool, waves),
        )
        progress.total = waves.num_expected
        progress.rewards.read(math.inf)
        tracking.live(progress, pool, now=True)
    figures.pool = None
    reporter.progress(progress.percent, progress.line(), now=True)


def _waves(
    plans: Sequence[RunPlan],
    pool: ShardPool,
    shards: Mapping[str, list[Shard]],
    remaining: Mapping[str, RemainingShards],
) -> ShardWaves:
    waves = ShardWaves(pool, num_first=sum(plan.num_rollouts for plan in plans))
    for plan in plans:
        first = {shard.index: shard.num_rollouts for shard in shards[plan.run_id]}
        for shard in remaining[plan.run_id].generated:
            waves.settled(first[shard.index], shard.num_rollouts)
    return waves


def _figures(plans: Sequence[RunPlan], progress: Progress) -> Figures:
    plan = plans[0]
    return Figures(
        progress,
        subject=plan.run_id if len(plans) == 1 else f"{len(plans)} runs",
        names=run_names(plans) if len(plans) > 1 else {},
        num_shards=sum(each.num_shards for each in plans),
        logs=plan.paths.logs,
        gpu_bytes={gpu.index: gpu.memory_total for gpu in read_used_gpus(plan.profile, PynvmlReader())},
    )


def run_names(plans: Sequence[RunPlan]) -> dict[str, str]:
    """Return what tells the runs apart, by run id: their checkpoints, as ids may begin alike and are long."""
    names = {plan.run_id: plan.adapter.path.name if plan.adapter else plan.model.path.name for plan in plans}
    return names if len(set(names.values())) == len(names) else {run_id: run_id for run_id in names}
