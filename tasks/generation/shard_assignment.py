"""Which replica gets which shard: batches stay full, and an engine loads other weights as rarely as possible."""

import math
from collections.abc import Sequence
from pathlib import Path

from tasks.generation.generation_spec import ShardKey, ShardWork
from tasks.generation.policy import Policy
from tasks.generation.replica_messages import AddShard
from tasks.generation.replica_process import ReplicaProcess
from tasks.generation.replica_supervisor import ReplicaSupervisor
from tasks.generation.shard_queue import ShardQueue
from tasks.plan.run_plan import RunPlan
from tasks.plan.shards import rollouts_to_make


class ShardAssignment:
    """Takes shards of ``plans`` from ``queue`` and gives them to ``replicas``, earlier plans first.

    ``policies`` are those of the plans. ``has_chosen_batch``: the question batch was chosen, and may be as large as the
    work.
    """

    def __init__(
        self,
        plans: Sequence[RunPlan],
        policies: Sequence[Policy],
        replicas: Sequence[ReplicaSupervisor],
        queue: ShardQueue,
        *,
        has_chosen_batch: bool,
    ) -> None:
        self._plans = {plan.run_id: plan for plan in plans}
        self._ranks = {plan.run_id: rank for rank, plan in enumerate(plans)}
        self._policies = {policy.run_id: policy for policy in policies}
        self._replicas = replicas
        self._queue = queue
        self._has_chosen_batch = has_chosen_batch
        self._num_rollouts = sum(plan.num_rollouts for plan in plans)

    def assign(self) -> None:
        """Give shards to the replicas that are ready, until all have enough or no shard is left for them."""
        while True:
            processes = [replica.process for replica in self._replicas if replica.process and replica.process.ready]
            # counts rollouts, not shards: a shard that waits for its longest completions does not fill a batch
            free = [process for process in processes if process.num_unfinished < self._most_assigned(process)]
            if not any(map(self._assign_one, sorted(free, key=lambda candidate: candidate.num_unfinished))):
                return

    def next_weights(self, *, ever_ready: bool) -> Path | None:
        """Return the weights with which an engine that starts now has something to do; None when nothing is left.

        ``ever_ready`` says whether an engine was ready before: until then the first shards may not be queued yet.
        """
        if ever_ready and (key := self._queue.first(self._rank)) is not None:
            return self._policies[key.run_id].weights
        return next((plan.model.path for plan in self._plans.values() if rollouts_to_make(plan)), None)

    def _assign_one(self, process: ReplicaProcess) -> bool:
        """Give ``process`` a shard of its weights; one of others when it is drained. Return whether there was one."""
        taken = self._queue.take(lambda key: self._policies[key.run_id].weights == process.weights)
        if taken is None and process.drained:
            taken = self._queue.take(rank=self._rank)
        if taken is None:
            return False
        key, shard = taken
        policy = self._policies[key.run_id]
        process.assign(key, shard, policy.weights)
        process.send(AddShard(work=ShardWork.of(policy, self._plans[key.run_id].paths, key.shard)))
        return True

    def _rank(self, key: ShardKey) -> int:
        return self._ranks[key.run_id]

    def _most_assigned(self, process: ReplicaProcess) -> int:
        """Unfinished rollouts at which a replica gets no further shard: two batches."""
        most = 2 * process.batch_rollouts
        # the other replicas shall share the work once they are ready
        return min(most, math.ceil(self._num_rollouts / len(self._replicas))) if self._has_chosen_batch else most
