"""The generation loop: keeps one engine's batch full across shard borders, without waiting for whole batches.

All rollouts of a question are admitted together, so that a stopped run leaves whole questions. The engine holds a few
more sequences than a question batch, so that it replaces a finished one in the very next step. They are only a few, so
that memory does not grow with the dataset.
"""

import time
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from profiles.arm_schema import Arm
from tasks.errors import ConfigError, PromptTooLong
from tasks.generation.admission import Admission, Load, capacity_of
from tasks.generation.engine import Engine, EngineOutput, EngineRequest
from tasks.generation.generation_spec import GenerationSpec, ShardKey, ShardWork
from tasks.generation.prompt_prefetcher import PromptPrefetcher
from tasks.generation.recorder import Recorder
from tasks.generation.rollout_request import build_request
from tasks.generation.rollout_writer import FinishedRollout
from tasks.generation.run_counters import RunCounters
from tasks.generation.shard_feed import QuestionWork, ShardFeed
from tasks.plan.prompts import ChatTokenizer, check_length

_QuestionKey = tuple[ShardKey, str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class _InFlight:
    feed: ShardFeed
    question: QuestionWork
    arm: Arm
    sample_index: int
    prompt_ids: list[int]


def max_in_flight(spec: GenerationSpec) -> int:
    """Return the largest number of requests in the engine at which the loop stops admitting questions."""
    return capacity_of(spec.batch_rollouts, spec.rollouts_per_question)


class GenerationLoop:
    """Feeds one engine with the questions of shards, and hands finished rollouts to the recorder."""

    def __init__(self, engine: Engine, tokenizer: ChatTokenizer, spec: GenerationSpec, recorder: Recorder) -> None:
        self._engine = engine
        self._spec = spec
        self._recorder = recorder
        self._feeds: deque[ShardFeed] = deque()
        self._requests: dict[str, _InFlight] = {}
        self._requests_of: dict[_QuestionKey, int] = {}  # number in the engine per admitted question
        first, per_question = spec.first_questions, spec.rollouts_per_question
        self._admission = Admission(
            first=None if first is None else first * per_question, most=spec.batch_rollouts, per_question=per_question
        )
        self._prompts = PromptPrefetcher(tokenizer, spec, max_questions=2 * spec.question_batch_size)
        self._isolating = False  # a suspect question is in the engine, and no other may join it
        self._draining = False
        self._next_id = 0
        self.num_finished = 0
        self.first_admitted_at: float | None = None
        self.last_finished_at: float | None = None
        self.runs: dict[str, RunCounters] = defaultdict(RunCounters)
        """What was done for each run, by run id."""

    @property
    def num_in_flight(self) -> int:
        """Requests in the engine."""
        return len(self._requests)

    @property
    def needs_shards(self) -> bool:
        """Whether less than a question batch is left to admit."""
        return sum(len(feed.pending) for feed in self._feeds) < self._spec.question_batch_size

    @property
    def busy(self) -> bool:
        return bool(self._requests or self._feeds)

    def add_shard(self, work: ShardWork) -> ShardFeed:
        """Queue a shard behind the others. Rollouts that are in its journal are not generated again."""
        feed = ShardFeed(work, self._spec)
        self.num_finished += feed.num_quarantined
        self.runs[work.policy.run_id].rollouts += feed.num_quarantined
        self._feeds.append(feed)
        self._recorder.open(work)
        return feed

    def step(self) -> list[ShardWork]:
        """Admit questions, advance the engine once, and return the shards whose journals are now complete."""
        self._admit()
        self._prompts.prefetch(chain.from_iterable(feed.pending for feed in self._feeds))
        if self._requests:
            if outputs := self._engine.step():
                self._finish(outputs)
            self._observe()
        else:
            self._recorder.drain()
        return list(self._take_complete())

    def drain(self) -> None:
        """Wait until every finished rollout is in its journal."""
        self._recorder.drain()

    def _observe(self) -> None:
        stats = self._engine.stats
        self._admission.observe(
            Load(
                in_flight=len(self._requests),
                running=stats.running,
                finished=self.num_finished,
                kv_cache_usage=stats.kv_cache_usage,
                preemptions=stats.preemptions,
            )
        )

    def _admit(self) -> None:
        while question_and_feed := self._next_admissible():
            feed, question = question_and_feed
            feed.pending.popleft()
            self._admit_question(feed, question)

    def _next_admissible(self) -> tuple[ShardFeed, QuestionWork] | None:
        if self._isolating:
            return None
        if self._spec.batch_barrier:
            # the next batch starts when the last sequence of this one has finished
            if not self._requests_of:
                self._draining = False
            elif self._draining:
                return None
        # suspects come last, because the questions of all other shards would wait for them
        feed = min(
            (feed for feed in self._feeds if feed.pending), key=lambda feed: feed.pending[0].isolation, default=None
        )
        if feed is None:
            return None
        question = feed.pending[0]
        if self._is_full(question):
            self._draining = self._spec.batch_barrier
            return None
        return feed, question

    def _is_full(self, question: QuestionWork) -> bool:
        if question.isolation:
            return bool(self._requests_of)
        if self._spec.batch_barrier:
            return len(self._requests_of) >= self._spec.question_batch_size
        # counts sequences, not questions: a question that waits for its longest completion must not block others
        return len(self._requests) >= self._admission.capacity

    def _admit_question(self, feed: ShardFeed, question: QuestionWork) -> None:
        if not question.question:
            for arm, sample_index in question.rollouts:
                item = _InFlight(feed=feed, question=question, arm=arm, sample_index=sample_index, prompt_ids=[])
                self._record_error(item, "the question is empty")
            return
        requests = list(self._build_requests(feed, question))
        if not requests:
            return
        self.first_admitted_at = self.first_admitted_at or time.monotonic()
        run = self.runs[feed.work.policy.run_id]
        run.first_admitted_at = run.first_admitted_at or time.monotonic()
        if question.isolation:
            # a finished rollout that is not in the journal yet would share the blame for a crash
            self._recorder.drain()
        feed.admit(question)
        self._isolating = question.isolation > 0
        for request, item in requests:
            try:
                self._engine.add(request)
            except ValueError as error:
                self._record_error(item, f"the engine refused the request: {error}")
                continue
            self._requests[request.request_id] = item
            self._requests_of[_question_key(item)] = self._requests_of.get(_question_key(item), 0) + 1
        if not self._requests_of:
            self._isolating = False

    def _build_requests(self, feed: ShardFeed, question: QuestionWork) -> Iterator[tuple[EngineRequest, _InFlight]]:
        """Yield the requests of ``question``; record an error for each prompt that is refused or too long."""
        sampling = self._spec.sampling
        encoded = self._prompts.take(question)
        for arm, sample_index in question.rollouts:
            prompt = encoded[arm.id]
            prompt_ids = [] if isinstance(prompt, ConfigError) else prompt
            item = _InFlight(feed=feed, question=question, arm=arm, sample_index=sample_index, prompt_ids=prompt_ids)
            if isinstance(prompt, ConfigError):
                self._record_error(item, str(prompt))
                continue
            try:
                check_length(len(prompt_ids), sampling.max_tokens, self._spec.max_model_len)
            except PromptTooLong as error:
                self._record_error(item, str(error))
                continue
            self._next_id += 1
            request = build_request(
                str(self._next_id),
                prompt_ids,
                sampling,
                question.example_id,
                arm.id,
                sample_index,
                adapter=feed.work.policy.adapter,
            )
            yield request, item

    def _record_error(self, item: _InFlight, error: str) -> None:
        self._record([(item, None, error)])

    def _finish(self, outputs: Sequence[EngineOutput]) -> None:
        self.last_finished_at = time.monotonic()
        finished = [(self._requests.pop(output.request_id), output, None) for output in outputs]
        self._record(finished)
        for item, output, _ in finished:
            run = self.runs[item.feed.work.policy.run_id]
            run.tokens += len(output.completion_ids)
            run.last_finished_at = self.last_finished_at
            key = _question_key(item)
            self._requests_of[key] -= 1
            if self._requests_of[key] == 0:
                del self._requests_of[key]
                self._isolating = False

    def _record(self, finished: Sequence[tuple[_InFlight, EngineOutput | None, str | None]]) -> None:
        self._recorder.record(
            [
                (
                    item.feed.work.key,
                    FinishedRollout(
                        example_id=item.question.example_id,
                        arm_id=item.arm.id,
                        sample_index=item.sample_index,
                        prompt_ids=item.prompt_ids,
                        output=output,
                        error=error,
                        question_batch_size=self._admission.questions,
                    ),
                )
                for item, output, error in finished
            ]
        )
        self.num_finished += len(finished)
        for item, _, _ in finished:
            self.runs[item.feed.work.policy.run_id].rollouts += 1

    def _take_complete(self) -> Iterator[ShardWork]:
        recorded = self._recorder.take_recorded()
        for feed in self._feeds:
            feed.num_unfinished -= recorded[feed.work.key]
        for feed in [feed for feed in self._feeds if feed.num_unfinished == 0]:
            self._feeds.remove(feed)
            feed.journal.close()
            yield feed.work


def _question_key(item: _InFlight) -> _QuestionKey:
    return item.feed.work.key, item.question.example_id, item.question.isolation
