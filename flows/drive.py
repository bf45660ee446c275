"""The flow's main thread while shards are generated: keeps task runs in flight and serves the replica pool."""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from prefect.futures import PrefectFuture

from flows.steps import generate_shard, score_shard, upload_shard
from tasks.replica_pool import ReplicaPool
from tasks.run_plan import RunPlan
from tasks.shards import Shard

PUMP_SECONDS = 0.5


class ShardDriver:
    """Runs shards through generation, scoring and upload, each stage as soon as the one before it is done.

    Only a few task runs are in flight at a time, so memory does not grow with the number of shards.
    """

    def __init__(self, plan: RunPlan, pool: ReplicaPool, upload_url: str | None) -> None:
        self._plan = plan
        self._pool = pool
        self._upload_url = upload_url
        self._then: dict[Any, Callable[[], None]] = {}
        self._done: deque[Any] = deque()
        self._generating = 0

    def run(
        self,
        *,
        to_generate: Iterable[Shard],
        to_score: Iterable[Shard],
        on_scored: Callable[[Shard], None],
        on_tick: Callable[[], None],
    ) -> None:
        """Finish every shard; ``to_score`` have their rollouts already. Raises the first failure that retries did
        not cure."""
        waiting = deque(to_generate)
        for shard in to_score:
            self._score(shard, on_scored)
        while waiting or self._then:
            while waiting and self._generating < self._pool.capacity:
                self._generate(waiting.popleft(), on_scored)
            self._pool.pump(PUMP_SECONDS)
            on_tick()
            while self._done:
                future = self._done.popleft()
                follow = self._then.pop(future)
                future.result()
                follow()

    def _generate(self, shard: Shard, on_scored: Callable[[Shard], None]) -> None:
        def follow() -> None:
            self._generating -= 1
            self._score(shard, on_scored)

        self._generating += 1
        self._watch(generate_shard.submit(self._pool, shard), follow)

    def _score(self, shard: Shard, on_scored: Callable[[Shard], None]) -> None:
        def follow() -> None:
            on_scored(shard)
            if self._upload_url is not None:
                self._watch(upload_shard.submit(self._plan, shard, self._upload_url), lambda: None)

        self._watch(score_shard.submit(self._plan, shard), follow)

    def _watch(self, future: PrefectFuture[Any], follow: Callable[[], None]) -> None:
        self._then[future] = follow
        future.add_done_callback(self._finished)

    def _finished(self, future: Any) -> None:
        self._done.append(future)
        self._pool.wake()
