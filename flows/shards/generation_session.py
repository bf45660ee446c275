"""Runs one session of generation on this node: a replica pool at its first OOM rung, with telemetry and a record."""

import contextlib
import datetime
from collections.abc import Callable, Iterator
from dataclasses import asdict

from tasks.generation.generation_log import GenerationSession, add_session
from tasks.generation.recovery import PoolEvent
from tasks.generation.replica_pool import MAX_SHARD_TASKS, ReplicaPool
from tasks.generation.rung_state import RungState, load_rung, save_rung
from tasks.node.mps import Mps, run_mps
from tasks.node.telemetry import ReplicaStats, TelemetrySampler
from tasks.plan.run_plan import RunPlan


@contextlib.contextmanager
def generation_session(
    plan: RunPlan, *, listener: Callable[[PoolEvent], None], log: Callable[[str], None]
) -> Iterator[ReplicaPool]:
    """Yield a replica pool for ``plan``. Its engines start with the first shard and run until the session ends.

    ``listener`` gets the pool's events, ``log`` the messages about limits of the session.
    """
    rung = RungState(plan.paths.state / "oom_ladder.json")
    rung.begin_at(load_rung(plan))
    with run_mps(plan.profile) as mps:
        if mps is not None:
            log(f"{plan.profile.replicas_per_gpu} engines share each GPU, with {mps}")
        pool = ReplicaPool(plan, rung=rung, listener=listener, variables=None if mps is None else mps.environment)
        _tell_limits(plan, pool, rung, log)
        # the sampler ends before the pool, so that its last sample has the replicas' final counters
        with pool, TelemetrySampler(plan.paths.telemetry, plan.profile, lambda: _replica_stats(pool)):
            try:
                yield pool
            finally:
                _record_session(plan, pool, mps)
    save_rung(plan, rung.rung)


def _tell_limits(plan: RunPlan, pool: ReplicaPool, rung: RungState, log: Callable[[str], None]) -> None:
    if pool.auto is not None:
        log(
            f"question batch chosen: {pool.auto.first_questions} questions in flight at first and up to "
            f"{pool.auto.questions}. In sequences: {pool.auto.reason}"
        )
    if rung.rung:
        log(
            f"beginning at rung {rung.rung} of the OOM ladder (question batch {pool.rung.question_batch_size}): memory "
            "was enough for it before. --forget-oom-rung begins with the full batch"
        )
    wanted = min(plan.num_questions, plan.profile.replicas * pool.rung.question_batch_size)
    if (held := MAX_SHARD_TASKS * plan.shard_size) < wanted:
        log(
            f"only {held} of {wanted} questions can be in flight: {MAX_SHARD_TASKS} shards of {plan.shard_size} are "
            f"worked on at a time. A shard size of {-(-wanted // MAX_SHARD_TASKS)} or more keeps the question batch "
            "full"
        )


def _record_session(plan: RunPlan, pool: ReplicaPool, mps: Mps | None) -> None:
    if pool.first_admitted_at is None or pool.last_finished_at is None:
        return
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    session = GenerationSession(
        started_at=now,
        seconds=pool.last_finished_at - pool.first_admitted_at,
        start_seconds=pool.engine_start_seconds,
        start_kind=pool.start_kind,
        tokens=pool.tokens_generated,
        rollouts=pool.rollouts_finished,
        restarts=pool.restarts,
        replicas=plan.profile.replicas,
        gpus=plan.profile.gpus,
        mps=None if mps is None else str(mps),
    )
    add_session(plan.paths.state / "generation.json", session)


def _replica_stats(pool: ReplicaPool) -> list[ReplicaStats]:
    stats = []
    for status in pool.status():
        counters = asdict(status.stats)
        del counters["prompt_tokens"]  # telemetry has no column for it
        stats.append(ReplicaStats(replica=status.index, **counters))
    return stats
