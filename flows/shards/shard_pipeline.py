"""Takes shards through generation, scoring and upload, each stage as soon as the one before it is done."""

from collections import deque
from collections.abc import Callable, Iterable

from flows.shards.pending_tasks import PendingTasks
from flows.shards.shard_uploads import ShardUploads, upload_submitter
from flows.shards.stages import generate_shard, score_shard
from tasks.generation.replica_pool import ReplicaPool
from tasks.plan.run_plan import RunPlan
from tasks.plan.shards import Shard

PUMP_SECONDS = 0.5
"""The longest time that one call of the replica pool's ``pump`` waits for the replicas."""

OnScored = Callable[[Shard], None]


class ShardPipeline:
    """Submits the task runs of a run's shards, and serves the replica pool meanwhile, on the flow's main thread.

    Only a few task runs are pending at a time, so memory does not grow with the number of shards. ``warn`` gets the
    messages about uploads that an outage delays.
    """

    def __init__(
        self, plan: RunPlan, pool: ReplicaPool, upload_url: str | None, *, warn: Callable[[str], None]
    ) -> None:
        self._plan = plan
        self._pool = pool
        self._pending = PendingTasks(pool.wake)
        self._uploads = ShardUploads(self._pending, upload_submitter(plan, upload_url), warn)
        self._generating = 0

    def run(
        self,
        *,
        to_generate: Iterable[Shard],
        to_score: Iterable[Shard],
        on_scored: OnScored,
        on_tick: Callable[[], None],
    ) -> None:
        """Finish every shard; those of ``to_score`` have their rollouts already.

        ``on_tick`` is called about every ``PUMP_SECONDS``. Raises the first failure that retries did not cure.
        """
        waiting = deque(to_generate)
        for shard in to_score:
            score_and_upload(self._pending, self._plan, shard, self._uploads, on_scored)
        while waiting or self._pending:
            while waiting and self._generating < self._pool.capacity:
                self._generate(waiting.popleft(), on_scored)
            self._pool.pump(PUMP_SECONDS)
            on_tick()
            self._pending.run_callbacks()

    def _generate(self, shard: Shard, on_scored: OnScored) -> None:
        def on_generated(_: object) -> None:
            self._generating -= 1
            score_and_upload(self._pending, self._plan, shard, self._uploads, on_scored)

        self._generating += 1
        self._pending.add(generate_shard.submit(self._pool, shard), on_generated)


def score_and_upload(
    pending: PendingTasks, plan: RunPlan, shard: Shard, uploads: ShardUploads, on_scored: OnScored
) -> None:
    """Score a shard that has its rollouts, call ``on_scored``, then upload the shard."""

    def on_result(_: object) -> None:
        on_scored(shard)
        uploads.add(shard)

    pending.add(score_shard.submit(plan, shard), on_result)
