"""The generation loop: keeps the question batch full across shard borders, with no barrier.

A question's rollouts are admitted together, so that a stopped run leaves whole questions. A few more sequences than the
engine runs wait in it, so that one that ends is replaced in the very next step; no more than that, so that memory does
not grow with the dataset.
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from profiles.schema import Arm
from tasks.errors import PromptTooLong
from tasks.generation.engine import Engine, EngineOutput, EngineRequest
from tasks.generation.prompt_prefetch import PromptsAhead
from tasks.generation.recorder import Recorder
from tasks.generation.rollout_request import build_request
from tasks.generation.shard_feed import FinishedRollout, GenerationSpec, QuestionWork, ShardFeed, ShardWork
from tasks.plan.prompts import ChatTokenizer, check_length

SPARE = 1 / 16
"""Share of the question batch that waits in the engine. Of sequences of 100 tokens, 1% end in a step, and the next step
is scheduled before the loop hears of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _InFlight:
    feed: ShardFeed
    question: QuestionWork
    arm: Arm
    sample_index: int
    prompt_ids: list[int]


def most_in_flight(spec: GenerationSpec) -> int:
    """Requests in the engine beyond which no question is admitted."""
    spare = int(SPARE * spec.batch_rollouts)
    # questions are admitted whole: to a small batch one more would add half
    return spec.batch_rollouts + (spare if spare >= spec.rollouts_per_question else 0)


class Generator:
    """Feeds one engine from the shards that it is given."""

    def __init__(self, engine: Engine, tokenizer: ChatTokenizer, spec: GenerationSpec, recorder: Recorder) -> None:
        self._engine = engine
        self._spec = spec
        self._recorder = recorder
        self._feeds: deque[ShardFeed] = deque()
        self._requests: dict[str, _InFlight] = {}
        self._open: dict[tuple[int, str, int], int] = {}  # requests in the engine per admitted question
        self._capacity = most_in_flight(spec)
        self._prompts = PromptsAhead(tokenizer, spec, most=2 * spec.question_batch_size)
        self._alone = False
        self._draining = False
        self._next_id = 0
        self.num_finished = 0
        self.first_admitted_at: float | None = None
        self.last_finished_at: float | None = None

    @property
    def num_in_flight(self) -> int:
        """Requests in the engine."""
        return len(self._requests)

    @property
    def hungry(self) -> bool:
        """Less than a question batch is left to admit."""
        return sum(len(feed.pending) for feed in self._feeds) < self._spec.question_batch_size

    @property
    def busy(self) -> bool:
        return bool(self._requests or self._feeds)

    def add_shard(self, work: ShardWork) -> ShardFeed:
        """Queue a shard behind those that are already here; what its journal holds is not generated again."""
        feed = ShardFeed(work, self._spec)
        self.num_finished += feed.num_quarantined
        self._feeds.append(feed)
        self._recorder.open(work)
        return feed

    def step(self) -> list[ShardWork]:
        """Admit what fits, advance the engine once; return the shards whose last rollout is now in the journal."""
        self._admit()
        self._prompts.prepare(chain.from_iterable(feed.pending for feed in self._feeds))
        if self._requests:
            if outputs := self._engine.step():
                self._finish(outputs)
        else:
            self._recorder.drain()
        return list(self._take_complete())

    def drain(self) -> None:
        """Wait until every finished rollout is in its journal."""
        self._recorder.drain()

    def _admit(self) -> None:
        while question_and_feed := self._next_admissible():
            feed, question = question_and_feed
            feed.pending.popleft()
            self._admit_question(feed, question)

    def _next_admissible(self) -> tuple[ShardFeed, QuestionWork] | None:
        if self._alone:
            return None
        if self._spec.loop:
            # a barrier: the next batch starts when the last sequence of this one has finished
            if not self._open:
                self._draining = False
            elif self._draining:
                return None
        # suspects after all shards' other questions: while one has the engine alone, those wait
        feed = min(
            (feed for feed in self._feeds if feed.pending), key=lambda feed: feed.pending[0].isolation, default=None
        )
        if feed is None:
            return None
        question = feed.pending[0]
        if self._is_full(question):
            self._draining = self._spec.loop
            return None
        return feed, question

    def _is_full(self, question: QuestionWork) -> bool:
        if question.isolation:
            return bool(self._open)
        if self._spec.loop:
            return len(self._open) >= self._spec.question_batch_size
        # sequences, not questions: a question waiting for its longest completion must not hold the others' places
        return len(self._requests) >= self._capacity

    def _admit_question(self, feed: ShardFeed, question: QuestionWork) -> None:
        if not question.question:
            for arm, sample_index in question.rollouts:
                item = _InFlight(feed=feed, question=question, arm=arm, sample_index=sample_index, prompt_ids=[])
                self._record_error(item, "the question is empty")
            return
        sendable = list(self._sendable(feed, question))
        if not sendable:
            return
        self.first_admitted_at = self.first_admitted_at or time.monotonic()
        if question.isolation:
            # else one that has finished would still be in flight in the journal, and share the blame
            self._recorder.drain()
        feed.admit(question)
        self._alone = question.isolation > 0
        for request, item in sendable:
            try:
                self._engine.add(request)
            except ValueError as error:
                self._record_error(item, f"the engine refused the request: {error}")
                continue
            self._requests[request.request_id] = item
            self._open[_question_key(item)] = self._open.get(_question_key(item), 0) + 1
        if not self._open:
            self._alone = False

    def _sendable(self, feed: ShardFeed, question: QuestionWork) -> Iterator[tuple[EngineRequest, _InFlight]]:
        sampling = self._spec.sampling
        encoded = self._prompts.take(question)
        for arm, sample_index in question.rollouts:
            prompt_ids = encoded[arm.id]
            item = _InFlight(feed=feed, question=question, arm=arm, sample_index=sample_index, prompt_ids=prompt_ids)
            try:
                check_length(len(prompt_ids), sampling.max_tokens, self._spec.max_model_len)
            except PromptTooLong as error:
                self._record_error(item, str(error))
                continue
            self._next_id += 1
            request = build_request(str(self._next_id), prompt_ids, sampling, question.example_id, arm.id, sample_index)
            yield request, item

    def _record_error(self, item: _InFlight, error: str) -> None:
        self._record([(item, None, error)])

    def _finish(self, outputs: Sequence[EngineOutput]) -> None:
        self.last_finished_at = time.monotonic()
        finished = [(self._requests.pop(output.request_id), output, None) for output in outputs]
        self._record(finished)
        for item, _, _ in finished:
            key = _question_key(item)
            self._open[key] -= 1
            if self._open[key] == 0:
                del self._open[key]
                self._alone = False

    def _record(self, finished: Sequence[tuple[_InFlight, EngineOutput | None, str | None]]) -> None:
        self._recorder.record(
            [
                (
                    item.feed.work.index,
                    FinishedRollout(
                        example_id=item.question.example_id,
                        arm_id=item.arm.id,
                        sample_index=item.sample_index,
                        prompt_ids=item.prompt_ids,
                        output=output,
                        error=error,
                    ),
                )
                for item, output, error in finished
            ]
        )
        self.num_finished += len(finished)

    def _take_complete(self) -> Iterator[ShardWork]:
        recorded = self._recorder.take_recorded()
        for feed in self._feeds:
            feed.num_unfinished -= recorded[feed.work.index]
        for feed in [feed for feed in self._feeds if feed.num_unfinished == 0]:
            self._feeds.remove(feed)
            feed.journal.close()
            yield feed.work


def _question_key(item: _InFlight) -> tuple[int, str, int]:
    return item.feed.work.index, item.question.example_id, item.question.isolation
