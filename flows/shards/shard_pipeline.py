"""Takes the shards of a collection's runs through generation, scoring and upload, each stage as soon as possible."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from prefect import Task

from flows.shards.pending_tasks import PendingTasks
from flows.shards.run_shard import RunShard
from flows.shards.shard_uploads import ShardUploads, upload_submitter
from flows.shards.shard_waves import ShardWaves
from flows.shards.stage_order import MAX_ARROWS, Ended, StageOrder
from flows.shards.stages import generate_shard, score_shard, upload_shard
from flows.shards.wave_uploads import WaveUploads
from tasks.fleet.node_pool import ShardPool
from tasks.plan.run_plan import RunPlan

MOST_TASKS = 224
"""Largest number of shards that are generated or scored in their task runs; below the number of the flow's threads."""
PUMP_SECONDS = 0.5
"""The longest time that one call of the replica pool's ``pump`` waits for the replicas."""


class ShardPipeline:
    """Submits the task runs of shards, and serves the replica pool meanwhile, on the flow's main thread.

    Only a few task runs are pending at a time, so memory does not grow with the number of shards. ``warn`` gets the
    messages about uploads that an outage delays.
    """

    def __init__(
        self,
        plans: Sequence[RunPlan],
        pool: ShardPool,
        waves: ShardWaves,
        upload_url: str | None,
        order: StageOrder,
        *,
        warn: Callable[[str], None],
    ) -> None:
        self._plans = plans
        self._pool = pool
        self._waves = waves
        self._order = order
        self._pending = PendingTasks(pool.wake)
        self._uploads = {
            plan.run_id: ShardUploads(
                self._pending,
                upload_submitter(self._named(upload_shard), plan, upload_url),
                warn,
                run_id=plan.run_id if len(plans) > 1 else None,
            )
            for plan in plans
        }
        self._wave_uploads = WaveUploads(self._pending, upload_url)
        self._scored: dict[str, deque[Ended]] = {plan.run_id: deque(maxlen=MAX_ARROWS) for plan in plans}
        self._generating = 0
        self._generate_shard = self._named(generate_shard)
        self._score_shard = self._named(score_shard)

    def run(
        self,
        *,
        to_generate: Iterable[RunShard],
        to_score: Iterable[RunShard],
        on_scored: Callable[[RunShard], None],
        on_tick: Callable[[], None],
    ) -> None:
        """Finish every shard; those of ``to_score`` have their rollouts already.

        ``on_tick`` is called about every ``PUMP_SECONDS``. Raises the first failure that retries did not cure.
        """
        waiting = deque(to_generate)
        for item in to_score:
            self._score(item, on_scored, self._order.before(item.plan))
        with self._wave_uploads:
            while waiting or self._pending:
                while waiting and self._has_room:
                    self._generate(waiting.popleft(), on_scored)
                self._pool.pump(PUMP_SECONDS)
                on_tick()
                self._upload_waves()
                self._pending.run_callbacks()
        for plan in self._plans:
            self._order.follow(plan, self._scored[plan.run_id])

    @property
    def _has_room(self) -> bool:
        # a shard whose scores are awaited has nothing in the pool, where others must fill the batches
        at_work = self._generating - self._waves.num_scoring
        return at_work < self._pool.capacity and self._generating < MOST_TASKS

    def _named(self, task: Task[..., Any]) -> Task[..., Any]:
        """Return the task with the run's id in its name, which would only be noise with one run."""
        several = len(self._plans) > 1
        return task.with_options(task_run_name=f"{task.task_run_name} · {{plan.run_id}}") if several else task

    def _generate(self, item: RunShard, on_scored: Callable[[RunShard], None]) -> None:
        def on_generated(_: object) -> None:
            self._generating -= 1
            if item.plan.has_rule:
                self._finished(item, on_scored, generated)
            else:
                self._score(item, on_scored, [generated])

        self._generating += 1
        before = self._order.before(item.plan)
        generated = self._generate_shard.submit(self._waves, item.plan, item.shard, wait_for=before)
        self._pending.add(generated, on_generated)

    def _score(self, item: RunShard, on_scored: Callable[[RunShard], None], before: list[Ended]) -> None:
        def on_result(_: object) -> None:
            self._finished(item, on_scored, scored)

        scored = self._score_shard.submit(item.plan, item.shard, wait_for=before)
        self._pending.add(scored, on_result)

    def _finished(self, item: RunShard, on_scored: Callable[[RunShard], None], scored: Ended) -> None:
        """Go on after ``scored``, the task run that ended with the scores of the shard."""
        on_scored(item)
        self._scored[item.plan.run_id].append(scored)
        # so that none of its waves is added after the whole shard, and uploaded beside it
        self._upload_waves()
        upload = partial(self._uploads[item.plan.run_id].add, item.shard, scored)
        self._wave_uploads.hand_over(item.plan, item.shard, upload)

    def _upload_waves(self) -> None:
        for plan, index in self._waves.take_final():
            self._wave_uploads.add(plan, index)
