"""Stores what a session of generation did: with each of its runs, for its own rollouts."""

from collections.abc import Sequence

from tasks.generation.generation_log import GenerationSession, add_session, utc_of
from tasks.generation.replica_pool import ReplicaPool
from tasks.generation.run_counters import RunCounters
from tasks.generation.rung_state import RungState
from tasks.node.gpu_selection import device_of
from tasks.node.mps import Mps
from tasks.plan.run_plan import RunPlan


def record_session(plans: Sequence[RunPlan], pool: ReplicaPool, mps: Mps | None) -> None:
    """Add the session to the records of each run of ``plans`` for which it generated.

    Several runs share the engines, and so the time of their starts and the steps down the OOM ladder, which the first
    run's ``state`` holds; time and tokens are each run's own.
    """
    device = device_of(plans[0].profile)
    for plan in plans:
        counters = counters_of(plans, plan, pool)
        if counters.first_admitted_at is None or counters.last_finished_at is None:
            continue
        session = GenerationSession(
            started_at=utc_of(counters.first_admitted_at),
            seconds=counters.last_finished_at - counters.first_admitted_at,
            start_seconds=pool.engine_start_seconds,
            start_kind=pool.start_kind,
            tokens=counters.tokens,
            rollouts=counters.rollouts,
            restarts=pool.restarts,
            replicas=plan.profile.replicas,
            gpus=plan.profile.gpus,
            mps=None if mps is None else str(mps),
            shared_with=tuple(other.run_id for other in plans if other is not plan),
            device=device,
        )
        add_session(plan.paths.state / "generation.json", session)
        if plan is not plans[0] and pool.rung_changes:
            RungState(plan.paths.state / "oom_ladder.json").add_changes(pool.rung_changes)


def counters_of(plans: Sequence[RunPlan], plan: RunPlan, pool: ReplicaPool) -> RunCounters:
    """Return what the session has generated so far for ``plan``, which is one of ``plans``."""
    if len(plans) > 1:
        return pool.counters_of(plan.run_id)
    # these count the tokens of unfinished completions too
    return RunCounters(
        rollouts=pool.rollouts_finished,
        tokens=pool.tokens_generated,
        first_admitted_at=pool.first_admitted_at,
        last_finished_at=pool.last_finished_at,
    )
