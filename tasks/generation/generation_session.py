"""Runs one session of generation on this node: a replica pool at its first OOM rung, with telemetry and a record."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict

from tasks.generation.recovery import PoolEvent
from tasks.generation.replica_pool import MAX_SHARD_TASKS, ReplicaPool
from tasks.generation.rung_state import RungState, load_rung, save_rung
from tasks.generation.session_records import record_session
from tasks.node.mps import run_mps
from tasks.node.telemetry import ReplicaStats, Sample, TelemetrySampler
from tasks.plan.run_plan import RunPlan


@contextlib.contextmanager
def generation_session(
    plans: Sequence[RunPlan],
    *,
    listener: Callable[[PoolEvent], None],
    log: Callable[[str], None],
    on_sample: Callable[[Sample], None] = lambda rows: None,
) -> Iterator[ReplicaPool]:
    """Yield a replica pool for ``plans``. Its engines start with the first shard and run until the session ends.

    The first plan's run keeps the rung and the telemetry, as it keeps the engines' logs. ``listener`` gets the pool's
    events, ``log`` the messages about limits of the session, ``on_sample`` each sample of telemetry.
    """
    plan = plans[0]
    rung = RungState(plan.paths.state / "oom_ladder.json")
    rung.begin_at(load_rung(plan))
    with run_mps(plan.profile) as mps:
        if mps is not None:
            log(f"{plan.profile.replicas_per_gpu} engines share each GPU, with {mps}")
        pool = ReplicaPool(plans, rung=rung, listener=listener, variables=None if mps is None else mps.environment)
        _tell_limits(plans, pool, rung, log)
        # the sampler ends before the pool, so that its last sample has the replicas' final counters
        sampler = TelemetrySampler(plan.paths.telemetry, plan.profile, lambda: _replica_stats(pool), listener=on_sample)
        with pool, sampler:
            try:
                yield pool
            finally:
                record_session(plans, pool, mps)
    save_rung(plan, rung.rung)


def _tell_limits(plans: Sequence[RunPlan], pool: ReplicaPool, rung: RungState, log: Callable[[str], None]) -> None:
    plan = plans[0]
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
    wanted = min(sum(each.num_questions for each in plans), plan.profile.replicas * pool.rung.question_batch_size)
    if (held := MAX_SHARD_TASKS * plan.shard_size) < wanted:
        log(
            f"only {held} of {wanted} questions can be in flight: {MAX_SHARD_TASKS} shards of {plan.shard_size} are "
            f"worked on at a time. A shard size of {-(-wanted // MAX_SHARD_TASKS)} or more keeps the question batch "
            "full"
        )


def _replica_stats(pool: ReplicaPool) -> list[ReplicaStats]:
    stats = []
    for status in pool.status():
        counters = asdict(status.stats)
        del counters["prompt_tokens"]  # telemetry has no column for it
        stats.append(ReplicaStats(replica=status.index, **counters))
    return stats
