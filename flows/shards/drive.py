"""The flow's main thread while shards are generated: keeps task runs in flight and serves the replica pool."""

from collections import deque
from collections.abc import Callable, Iterable

from flows.shards.in_flight import InFlight
from flows.shards.shard_uploads import ShardUploads, submit_to
from flows.shards.steps import generate_shard, score_shard
from tasks.generation.replica_pool import ReplicaPool
from tasks.plan.run_plan import RunPlan
from tasks.plan.shards import Shard

PUMP_SECONDS = 0.5

OnScored = Callable[[Shard], None]


class ShardDriver:
    """Runs shards through generation, scoring and upload, each stage as soon as the one before it is done.

    Only a few task runs are in flight at a time, so memory does not grow with the number of shards.
    """

    def __init__(
        self, plan: RunPlan, pool: ReplicaPool, upload_url: str | None, *, warn: Callable[[str], None]
    ) -> None:
        self._plan = plan
        self._pool = pool
        self._in_flight = InFlight(pool.wake)
        self._uploads = ShardUploads(self._in_flight, submit_to(plan, upload_url), warn)
        self._generating = 0

    def run(
        self,
        *,
        to_generate: Iterable[Shard],
        to_score: Iterable[Shard],
        on_scored: OnScored,
        on_tick: Callable[[], None],
    ) -> None:
        """Finish every shard; ``to_score`` have their rollouts already. Raises the first failure that retries did
        not cure."""
        waiting = deque(to_generate)
        for shard in to_score:
            score_and_upload(self._in_flight, self._plan, shard, self._uploads, on_scored)
        while waiting or self._in_flight:
            while waiting and self._generating < self._pool.capacity:
                self._generate(waiting.popleft(), on_scored)
            self._pool.pump(PUMP_SECONDS)
            on_tick()
            self._in_flight.settle()

    def _generate(self, shard: Shard, on_scored: OnScored) -> None:
        def follow(_: object) -> None:
            self._generating -= 1
            score_and_upload(self._in_flight, self._plan, shard, self._uploads, on_scored)

        self._generating += 1
        self._in_flight.watch(generate_shard.submit(self._pool, shard), follow)


def score_and_upload(
    in_flight: InFlight, plan: RunPlan, shard: Shard, uploads: ShardUploads, on_scored: OnScored
) -> None:
    """Score a shard that has its rollouts, then upload it; an outage of the destination does not end what generates."""

    def follow(_: object) -> None:
        on_scored(shard)
        uploads.add(shard)

    in_flight.watch(score_shard.submit(plan, shard), follow)
