"""The worker of a node: it keeps a pool of replicas warm, and generates the shards that it is given.

It is the Ray actor of its node, and knows nothing of Ray. The replicas belong to a thread that lives as long as the
process, since a replica dies with the thread that started it.
"""

import contextlib
import os
import queue
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from tasks.errors import ConfigError, DamagedFile, HarvestError, PreflightFailed, StorageError, harvest_error
from tasks.files import read_json, sha256_file
from tasks.fleet.node_logs import LogTails
from tasks.fleet.node_order import NodeOrder, accept_order, software
from tasks.fleet.node_scratch import (
    lock_scratch,
    nodes_directory,
    remove_forgotten,
    remove_runs,
    remove_shard,
    shards_begun,
    store,
    store_order,
)
from tasks.fleet.node_status import (
    MadeShard,
    News,
    NodeFacts,
    NodeReport,
    NodeStatus,
    ShardOrder,
    node_name,
)
from tasks.generation.generation_session import generation_session
from tasks.generation.replica_pool import ReplicaPool
from tasks.generation.rung_state import forget_rung
from tasks.generation.session_records import counters_of
from tasks.generation.shard_queue import ShardResult
from tasks.node.gpu_lock import lock_gpus
from tasks.node.gpu_selection import gpus_of_run
from tasks.node.preflight import PREFLIGHT_SECONDS, run_preflight
from tasks.node.telemetry import TelemetrySampler, load_telemetry
from tasks.plan.run_directory import open_run
from tasks.plan.run_plan import RunPlan
from tasks.plan.shards import rollouts_finished
from tasks.time_limits import time_limit

PUMP_SECONDS = 0.5
END_SECONDS = 30.0
"""How long the pool has to end in good order."""


class NodeWorker:
    """Its public methods may be called from any thread at the same time. Only ``report`` and ``end`` wait.

    The nodes of one replica have a worker each, and one of them ``generates``. vLLM's processes on the others are in
    the placement group, beside their workers, which check their nodes and sample their GPUs. ``variables`` are added to
    the environment.
    """

    def __init__(self, generates: bool = True, **variables: str) -> None:
        os.environ.update(variables)
        _forget_threads()
        self._generates = generates
        self._status = NodeStatus()
        self._news: queue.SimpleQueue[News] = queue.SimpleQueue()
        """What happened since the last report."""
        self._inbox: deque[ShardOrder] = deque()
        self._plans: dict[str, RunPlan] = {}
        self._facts = NodeFacts(preflight=None, begun=frozenset())
        self._telemetry: pl.DataFrame | None = None
        self._logs: LogTails | None = None
        self._pool: ReplicaPool | None = None
        self._over, self._ended = threading.Event(), threading.Event()
        self._error: HarvestError | None = None

    def identity(self) -> dict[str, Any]:
        """Return the node's name and its software, in types that every version of this code can read."""
        return {"node": node_name(), "software": software()}

    def begin(self, order: NodeOrder, now: float) -> None:
        """Begin to work for the runs of ``order``. ``report`` tells what comes of it.

        All times that it tells are on the caller's clock, which shows ``now``: clocks of nodes may differ.
        """
        self._shift = now - time.monotonic()
        self._ahead = timedelta(seconds=round(now - time.time()))
        threading.Thread(target=self._run, args=(order,), name="pool", daemon=True).start()

    def give(self, order: ShardOrder) -> None:
        """Take a shard to generate."""
        self._inbox.append(order)
        if self._pool is not None:
            self._pool.wake()

    def report(self, wait_s: float) -> NodeReport:
        """Return what is new since the last report, at once or after up to ``wait_s`` seconds."""
        # before the news, so that the last state comes with the last of them
        status, news = self._status, list[News]()
        with contextlib.suppress(queue.Empty):
            while True:
                news.append(self._news.get(timeout=wait_s if self._generates else 0.0))
                wait_s = 0.0
        return NodeReport(status=status, news=tuple(news), logs=self._logs.new() if self._logs else {})

    def facts(self) -> NodeFacts:
        return self._facts

    def read(self, run_id: str, index: int, offset: int, size: int) -> bytes:
        """Return up to ``size`` bytes of a shard's rollouts."""
        with self._plans[run_id].paths.rollouts(index).open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def drop(self, run_id: str, index: int) -> None:
        """Remove a shard that was fetched, or that cannot be used."""
        remove_shard(self._plans[run_id].paths, index)

    def end(self) -> pl.DataFrame | None:
        """End the pool in good order, since everything is fetched, and return its telemetry."""
        self._over.set()
        if self._pool is not None:
            self._pool.wake()
        self._ended.wait(time_limit(END_SECONDS))
        return self._telemetry

    def _run(self, order: NodeOrder) -> None:
        try:
            with contextlib.ExitStack() as stack:
                plans = self._open(order, stack)
                if self._generates:
                    self._generate(plans)
                else:
                    self._guard(plans)
                with contextlib.suppress(DamagedFile):
                    sampled = load_telemetry(plans[0].paths.telemetry)
                    self._telemetry = sampled.with_columns(pl.col("time", "session") + self._ahead)
            remove_runs(list(self._plans))
            self._set(state="ended")
        except OSError as error:
            remedy = "Free space there, or set HARVEST_HOME for it"
            self._fail(StorageError(f"the node cannot write to {nodes_directory()}: {error}. {remedy}"))
        except Exception as error:
            self._fail(harvest_error(error))
        self._ended.set()

    def _fail(self, error: HarvestError) -> None:
        state = "refused" if isinstance(error, ConfigError | PreflightFailed) else "failed"
        self._set(state=state, error={"type": type(error).__name__, "message": str(error)})

    def _open(self, order: NodeOrder, stack: contextlib.ExitStack) -> tuple[RunPlan, ...]:
        """Plan the runs in a directory of their own, and check the node for them."""
        remove_forgotten()
        plans = lock_scratch(accept_order(order, nodes_directory()), stack)
        for plan in plans:
            for pid in open_run(plan):
                self._news.put(f"ended process {pid}, left over from a killed run")
            if order.forget_oom_rung:
                forget_rung(plan, is_locked=True)
        first = plans[0]
        if order.prompts is not None:
            store(first.paths.prompts, order.prompts)
        stack.enter_context(lock_gpus(gpus_of_run(first), run_id=first.run_id, on_wait=self._news.put))
        limit = time_limit(PREFLIGHT_SECONDS)
        told = f"its preflight has not ended for {limit:.0f} s, as when a driver hangs"
        hangs = threading.Timer(limit, self._fail, [PreflightFailed(told)])
        hangs.daemon = True
        hangs.start()
        try:
            run_preflight(first, None, beside=plans[1:])
        finally:
            hangs.cancel()
        self._plans = {plan.run_id: plan for plan in plans}
        models = {f"the model of {plan.run_id}": str(plan.model.path) for plan in plans}
        adapters = {f"the adapter of {plan.run_id}": str(plan.adapter.path) for plan in plans if plan.adapter}
        self._facts = NodeFacts(
            preflight=read_json(first.paths.preflight), begun=shards_begun(plans), files=models | adapters
        )
        self._logs = LogTails(first.paths.logs)
        return plans

    def _generate(self, plans: tuple[RunPlan, ...]) -> None:
        with generation_session(plans, listener=self._news.put, log=self._news.put) as pool:
            self._pool = pool
            while not self._over.is_set() and self._error is None:
                self._count(pool)
                while self._inbox:
                    self._submit(pool, self._inbox.popleft())
                pool.pump(PUMP_SECONDS)
        self._count(pool)
        if self._error is not None:
            raise self._error

    def _guard(self, plans: tuple[RunPlan, ...]) -> None:
        with TelemetrySampler(plans[0].paths.telemetry, plans[0].profile, list):
            self._set(state="generating")
            self._over.wait()

    def _submit(self, pool: ReplicaPool, order: ShardOrder) -> None:
        plan, shard = self._plans[order.run_id], order.shard
        if rollouts_finished(plan.paths, shard):
            # an earlier worker on this node made it, and ended before it was fetched
            n = shard.num_rollouts
            self._publish(plan, ShardResult(index=shard.index, num_rollouts=n, num_errors=0, num_resumed=n))
            return
        store_order(plan.paths, order)

        def on_end(future: Future[ShardResult]) -> None:
            error = future.exception()
            if error is None:
                self._count(pool)
                self._publish(plan, future.result())
            elif isinstance(error, HarvestError) and error.retryable:
                # the pool decides when to give up
                self._inbox.append(order)
            elif not self._over.is_set():
                self._error = harvest_error(error)

        pool.submit(plan, shard).add_done_callback(on_end)

    def _publish(self, plan: RunPlan, result: ShardResult) -> None:
        path = plan.paths.rollouts(result.index)
        size, sha256 = path.stat().st_size, sha256_file(path)
        self._news.put(MadeShard(run_id=plan.run_id, result=result, size=size, sha256=sha256))

    def _count(self, pool: ReplicaPool) -> None:
        plans = tuple(self._plans.values())
        self._set(
            state="generating",
            capacity=pool.capacity,
            rollouts=pool.rollouts_finished,
            resumed=pool.rollouts_resumed,
            tokens=pool.tokens_generated,
            start_seconds=pool.engine_start_seconds,
            start_kind=pool.start_kind,
            restarts=pool.restarts,
            load=pool.load,
            replicas=plans[0].profile.replicas,
            gpus=plans[0].profile.gpus,
            runs={plan.run_id: counters_of(plans, plan, pool).shifted(self._shift) for plan in plans},
            rung_changes=tuple(
                replace(change, at=(datetime.fromisoformat(change.at) + self._ahead).isoformat())
                for change in pool.rung_changes
            ),
        )

    def _set(self, **changes: Any) -> None:
        """Change fields of the status."""
        self._status = replace(self._status, **changes)


def _forget_threads() -> None:
    """Give the engines the number of threads that they have elsewhere: Ray sets it to the processors of the actor."""
    given = Path("/proc/self/environ").read_bytes().split(b"\0")
    if not any(entry.startswith(b"OMP_NUM_THREADS=") for entry in given):
        os.environ.pop("OMP_NUM_THREADS", None)
