"""Decides how many sequences one engine may have in flight, from what it says about its KV cache.

A stated batch never changes. A chosen one begins with what surely fits, and rises to what does. The use of the cache
grows with the sequences in flight, and so tells how many more there is room for; prompts that share a prefix, and
completions far shorter than max_tokens, are counted as what they take. When as many sequences as may be in flight have
ended, the batch has been renewed, and the highest use since then stands for its usual one.

It does not swing to and fro. It rises only by a sixteenth or more, so that a use from 0.85 on is left alone. What was
once too much is not tried again, unless the use says that the work has changed, and then by an eighth at a time: after
a fall the use is about 0.88. It falls once for all preemptions until the sequences above the new limit have ended, as
vLLM tells of a preemption only when the sequence runs again. It never falls below one question, and never rises above
the engine's seats.
"""

from dataclasses import dataclass

QUEUED_SHARE = 1 / 16
"""Rollouts that wait in the engine, as a share of the batch. The engine schedules its next step before the loop can add
requests; with 100 tokens per sequence, 1% of the sequences end in each step."""
WANTED_USE = 0.9
"""Share of the KV cache to use; the rest is for completions that grow together."""
LEAST_RISE = 17 / 16
MOST_RISE = 2.0
"""Factors of one rise. After a rise the new sequences are still short, so the use of the cache lags behind."""
FALL = 7 / 8
OTHER_WORK = 0.7
"""Use of the KV cache below which an earlier preemption no longer counts."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What the engine says after a step. Counters are since its start."""

    in_flight: int
    """Requests in the engine."""
    running: int
    """Those of them that run, and so fit."""
    finished: int
    kv_cache_usage: float
    preemptions: int


class Admission:
    """The number of sequences that may be in flight: ``most`` if it is fixed, else from ``first`` up to ``most``."""

    def __init__(self, *, first: int | None, most: int, per_question: int) -> None:
        """``per_question`` rollouts are admitted together. Without ``first`` the number is fixed."""
        self._per_question = per_question
        self._is_fixed = first is None
        self._most = self._ceiling = most
        self.limit = most if first is None else first
        self._renewed_at = 0
        self._highest_use = 0.0
        self._preemptions = 0
        self._is_draining = False

    @property
    def capacity(self) -> int:
        """The number of requests in the engine at which no question is admitted: the limit, and a few that wait."""
        return capacity_of(self.limit, self._per_question)

    @property
    def questions(self) -> int:
        """The limit in questions."""
        return max(1, self.limit // self._per_question)

    def observe(self, load: Load) -> None:
        """Set the limit by what the last step showed."""
        if self._is_fixed:
            return
        was_preempted = load.preemptions > self._preemptions
        self._preemptions = load.preemptions
        self._is_draining &= load.in_flight > self.capacity
        if was_preempted and not self._is_draining:
            self._fall(load)
        if load.in_flight <= self.limit - self._per_question or self._is_draining:
            return  # the use of a batch that is not full says nothing about a full one
        self._highest_use = max(self._highest_use, load.kv_cache_usage)
        if load.finished - self._renewed_at >= self.limit:
            self._rise(load)

    def _fall(self, load: Load) -> None:
        fit = min(self.limit, load.in_flight, load.running)
        self._ceiling = max(self._per_question, int(FALL * fit))
        self.limit = self._ceiling
        self._is_draining = load.in_flight > self.capacity
        self._begin_again(load)

    def _rise(self, load: Load) -> None:
        if self._highest_use < OTHER_WORK:
            self._ceiling = min(self._most, int(self._ceiling / FALL) + 1)
        factor = min(MOST_RISE, WANTED_USE / max(self._highest_use, 0.01))
        wanted = min(self._ceiling, int(factor * self.limit))
        if wanted == self._most or wanted >= LEAST_RISE * self.limit:
            self.limit = max(self.limit, wanted)
        self._begin_again(load)

    def _begin_again(self, load: Load) -> None:
        self._renewed_at = load.finished
        self._highest_use = 0.0


def capacity_of(limit: int, per_question: int) -> int:
    """Return the number of requests in the engine at which no question is admitted, for ``limit`` sequences."""
    queued = int(QUEUED_SHARE * limit)
    # questions are admitted whole, and one more question would make a small batch half as large again
    return limit + (queued if queued >= per_question else 0)
