"""The flow's main thread while shards are generated: keeps task runs in flight and serves the replica pool."""

from collections import deque
from collections.abc import Callable, Iterable

from prefect.logging import get_run_logger

from flows.in_flight import InFlight
from flows.steps import generate_shard, score_shard, upload_shard
from tasks.errors import HarvestError
from tasks.replica_pool import ReplicaPool
from tasks.run_plan import RunPlan
from tasks.shards import Shard

PUMP_SECONDS = 0.5

OnScored = Callable[[Shard], None]


class ShardDriver:
    """Runs shards through generation, scoring and upload, each stage as soon as the one before it is done.

    Only a few task runs are in flight at a time, so memory does not grow with the number of shards.
    """

    def __init__(self, plan: RunPlan, pool: ReplicaPool, upload_url: str | None) -> None:
        self._plan = plan
        self._pool = pool
        self._upload_url = upload_url
        self._in_flight = InFlight(pool.wake)
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
            score_and_upload(self._in_flight, self._plan, shard, self._upload_url, on_scored)
        while waiting or self._in_flight:
            while waiting and self._generating < self._pool.capacity:
                self._generate(waiting.popleft(), on_scored)
            self._pool.pump(PUMP_SECONDS)
            on_tick()
            self._in_flight.settle()

    def _generate(self, shard: Shard, on_scored: OnScored) -> None:
        def follow(_: object) -> None:
            self._generating -= 1
            score_and_upload(self._in_flight, self._plan, shard, self._upload_url, on_scored)

        self._generating += 1
        self._in_flight.watch(generate_shard.submit(self._pool, shard), follow)


def score_and_upload(
    in_flight: InFlight, plan: RunPlan, shard: Shard, upload_url: str | None, on_scored: OnScored
) -> None:
    """Score a shard that has its rollouts, then upload it; an outage of the destination does not end what generates."""

    def leave_to_the_end(error: HarvestError) -> None:
        get_run_logger().warning("shard %d goes up at the end of the run, as it could not now: %s", shard.index, error)

    def follow(_: object) -> None:
        on_scored(shard)
        if upload_url is not None:
            uploading = upload_shard.submit(plan, shard, upload_url)
            in_flight.watch(uploading, lambda _: None, let_pass=leave_to_the_end)

    in_flight.watch(score_shard.submit(plan, shard), follow)
