"""The main thread of a node: it takes shards from the ledger, serves the replica pool and publishes finished shards."""

from collections.abc import Callable, Mapping

from flows.shards.open_ledgers import register_ledger
from flows.shards.pending_tasks import PendingTasks
from flows.shards.shard_pipeline import PUMP_SECONDS
from flows.shards.stages import generate_shard, publish_shard
from tasks.fleet.ledger import Ledger
from tasks.fleet.shard_supply import ShardSupply
from tasks.generation.replica_pool import ReplicaPool
from tasks.plan.run_plan import RunPlan
from tasks.plan.shards import Shard, rollouts_finished


class NodeDriver:
    """Generates and publishes shards until none is left on any node."""

    def __init__(self, plan: RunPlan, pool: ReplicaPool, ledger: Ledger, shards: Mapping[int, Shard]) -> None:
        self._plan = plan
        self._pool = pool
        self._ledger = ledger
        self._shards = shards
        self._pending = PendingTasks(pool.wake)
        self._generating: set[int] = set()

    def run(self, supply: ShardSupply, *, on_published: Callable[[Shard], None], on_tick: Callable[[], None]) -> None:
        """Work until every shard is finished on some node.

        Raises the first failure that retries did not cure, or the error of the shared storage after a long outage.
        """
        while not supply.over:
            for index in supply.take():
                self._generate(self._shards[index], on_published)
            supply.want(self._pool.capacity - len(self._generating))
            self._pool.pump(PUMP_SECONDS)
            on_tick()
            self._pending.run_callbacks()

    def _generate(self, shard: Shard, on_published: Callable[[Shard], None]) -> None:
        def on_generated(_: object) -> None:
            self._generating.discard(shard.index)
            self._publish(shard, on_published)

        # the node lost the claim and got it back, so the replicas still have the shard
        if shard.index in self._generating:
            return
        # an earlier flow on this node generated it, and ended before it could publish it
        if rollouts_finished(self._plan.paths, shard):
            self._publish(shard, on_published)
            return
        self._generating.add(shard.index)
        self._pending.add(generate_shard.submit(self._pool, self._plan, shard), on_generated)

    def _publish(self, shard: Shard, on_published: Callable[[Shard], None]) -> None:
        def on_result(was_first: bool) -> None:
            if was_first:
                on_published(shard)

        self._pending.add(publish_shard.submit(register_ledger(self._ledger), self._plan, shard), on_result)
