"""What generates shards, as a flow sees it: the replicas of this machine, or those of several nodes together."""

from typing import Protocol

from tasks.generation.shard_queue import ShardResult
from tasks.plan.run_plan import RunPlan
from tasks.plan.shards import Shard


class ShardPool(Protocol):
    """Task threads call ``generate`` and wait. The flow's main thread calls ``pump`` meanwhile."""

    @property
    def capacity(self) -> int:
        """How many shard tasks to have in flight now."""
        ...

    @property
    def rollouts_finished(self) -> int: ...
    @property
    def rollouts_resumed(self) -> int: ...
    @property
    def tokens_generated(self) -> int: ...
    @property
    def first_admitted_at(self) -> float | None: ...

    def generate(self, plan: RunPlan, shard: Shard) -> ShardResult:
        """Generate ``shard`` of one of the pool's plans, and wait until it is published. Raises a HarvestError."""
        ...

    def wake(self) -> None:
        """Make ``pump`` return now. Safe from any thread."""
        ...

    def pump(self, timeout: float) -> None:
        """Serve what generates, for up to ``timeout`` seconds. Raises what ends it."""
        ...
