"""Takes a shard through its waves of samples, where groups stop by a rule.

All waves of a shard are one task run, as Prefect's server is slow with thousands. A wave waits for the scores of the
wave before it; meanwhile the engines have the waves of other shards, of which the pipeline begins another one.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator

from tasks.fleet.node_pool import ShardPool
from tasks.generation.shard_queue import ShardResult
from tasks.plan.run_plan import RunPlan
from tasks.plan.shards import Shard, make_scores, scores_finished
from tasks.plan.waves import begin_wave, is_generated, settle, waves_of
from tasks.records import shard_label
from tasks.scoring.score_shard import describe_scores

_Key = tuple[str, int]
"""Run id and index of a shard or of a wave."""


class ShardWaves:
    """Generates the shards that task threads give it with ``pool``, and scores them where a rule needs the scores."""

    def __init__(self, pool: ShardPool, num_first: int) -> None:
        """``num_first`` is how many rollouts all shards have in their first waves."""
        self._pool = pool
        self._num_first = num_first
        self._lock = threading.Lock()
        self._begun: dict[_Key, tuple[int, int]] = {}
        """Rollouts of the first wave, and of all waves that are known, of each shard that a thread is at."""
        self._scoring: set[_Key] = set()
        self._settled = (0, 0)
        """The same of all shards that are settled."""
        self._final: deque[tuple[RunPlan, int]] = deque()
        self._told: set[_Key] = set()
        """The waves that ``take_final`` has returned or will return."""

    @property
    def num_scoring(self) -> int:
        """How many shards have nothing in the pool until their scores say what they lack."""
        return len(self._scoring)

    @property
    def num_expected(self) -> int:
        """How many rollouts the shards have or will have, if those to come need as many as those that are settled."""
        with self._lock:
            begun, (first, known) = [*self._begun.values()], self._settled
        more = known / first if first else 1.0
        left = self._num_first - first - sum(own for own, _ in begun)
        return known + round(sum(max(so_far, own * more) for own, so_far in begun) + left * more)

    def take_final(self) -> Iterator[tuple[RunPlan, int]]:
        """Yield each wave, by its run and its index, that has its scores and another wave after it."""
        while self._final:
            yield self._final.popleft()

    def settled(self, num_first: int, rollouts: int) -> None:
        """Note a shard that has all of its ``rollouts``, of which ``num_first`` were in its first wave."""
        with self._lock:
            first, known = self._settled
            self._settled = first + num_first, known + rollouts

    def generate(self, plan: RunPlan, shard: Shard, log: Callable[[str], None]) -> ShardResult | None:
        """Generate ``shard``, where a rule is set with all of its waves, and their scores.

        Return the result of the last wave that was generated, None if there was none. Raises what the pool and a scorer
        raise.
        """
        if not plan.has_rule:
            return self._pool.generate(plan, shard)
        key, result, rollouts, last = (plan.run_id, shard.index), None, 0, shard
        with self._noted(key, shard.num_rollouts):
            for wave in waves_of(plan, shard):
                if wave.asked is not None:
                    self._tell_final(plan, last.index)
                last = wave.shard
                rollouts += last.num_rollouts
                with self._lock:
                    self._begun[key] = shard.num_rollouts, rollouts
                if not is_generated(plan, wave):
                    begin_wave(plan, wave)
                    self._scoring.discard(key)
                    result = self._pool.generate(plan, last)
                    self._scoring.add(key)
                if not scores_finished(plan, last):
                    log(f"shard {shard_label(last.index)}: {describe_scores(make_scores(plan, last.index))}")
            settle(plan, last)
        self.settled(shard.num_rollouts, rollouts)
        return result

    def _tell_final(self, plan: RunPlan, index: int) -> None:
        # after a failed engine the waves of a shard are gone through again
        if (plan.run_id, index) not in self._told:
            self._told.add((plan.run_id, index))
            self._final.append((plan, index))

    @contextlib.contextmanager
    def _noted(self, key: _Key, num_first: int) -> Iterator[None]:
        """Count the shard among those that are begun, until it is settled or has failed."""
        with self._lock:
            self._begun[key] = num_first, num_first
        try:
            yield
        finally:
            self._scoring.discard(key)
            with self._lock:
                del self._begun[key]
