"""Takes the shards of a collection's runs through generation, scoring and upload, each stage as soon as possible."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from flows.shards.pending_tasks import PendingTasks
from flows.shards.run_shard import RunShard
from flows.shards.shard_uploads import ShardUploads, upload_submitter
from flows.shards.stages import generate_shard, score_shard
from tasks.fleet.node_session import ShardPool
from tasks.plan.run_plan import RunPlan
from tasks.plan.shards import Shard

PUMP_SECONDS = 0.5
"""The longest time that one call of the replica pool's ``pump`` waits for the replicas."""

OnScored = Callable[[Shard], None]


class ShardPipeline:
    """Submits the task runs of shards, and serves the replica pool meanwhile, on the flow's main thread.

    Only a few task runs are pending at a time, so memory does not grow with the number of shards. ``warn`` gets the
    messages about uploads that an outage delays.
    """

    def __init__(
        self, plans: Sequence[RunPlan], pool: ShardPool, upload_url: str | None, *, warn: Callable[[str], None]
    ) -> None:
        self._pool = pool
        self._pending = PendingTasks(pool.wake)
        self._uploads = {
            plan.run_id: ShardUploads(
                self._pending,
                upload_submitter(plan, upload_url),
                warn,
                run_id=plan.run_id if len(plans) > 1 else None,
            )
            for plan in plans
        }
        self._generating = 0
        # with one run its id would only be noise
        name = generate_shard.task_run_name if len(plans) == 1 else f"{generate_shard.task_run_name} · {{plan.run_id}}"
        self._generate_shard = generate_shard.with_options(task_run_name=name)

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
            self._score(item, on_scored)
        while waiting or self._pending:
            while waiting and self._generating < self._pool.capacity:
                self._generate(waiting.popleft(), on_scored)
            self._pool.pump(PUMP_SECONDS)
            on_tick()
            self._pending.run_callbacks()

    def _generate(self, item: RunShard, on_scored: Callable[[RunShard], None]) -> None:
        def on_generated(_: object) -> None:
            self._generating -= 1
            self._score(item, on_scored)

        self._generating += 1
        self._pending.add(self._generate_shard.submit(self._pool, item.plan, item.shard), on_generated)

    def _score(self, item: RunShard, on_scored: Callable[[RunShard], None]) -> None:
        uploads = self._uploads[item.plan.run_id]
        score_and_upload(self._pending, item.plan, item.shard, uploads, lambda _: on_scored(item))


def score_and_upload(
    pending: PendingTasks, plan: RunPlan, shard: Shard, uploads: ShardUploads, on_scored: OnScored
) -> None:
    """Score a shard that has its rollouts, call ``on_scored``, then upload the shard."""

    def on_result(_: object) -> None:
        on_scored(shard)
        uploads.add(shard)

    pending.add(score_shard.submit(plan, shard), on_result)
