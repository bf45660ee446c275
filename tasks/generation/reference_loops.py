"""The loops that our generation loop is measured against: ``LLM.generate`` and nothing of ours between its calls.

- baseline: one question under its arms per call, as the original script does;
- script: 16 questions per call, as "optimized" scripts do; the next call waits for the last sequence of this one;
- limit: every prompt in one call: the engine with nothing around it.

What is timed is the calls alone: prompts are encoded before, and rollouts stored after. Each loop runs in a process of
its own, ``python -m tasks.generation.reference_loops PARENT_PID``, with a replica's environment; its
order is pickled to standard input.
"""

import os
import pickle
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal, Protocol

from tasks.errors import PromptTooLong
from tasks.files import publish_json
from tasks.generation.engine import (
    Engine,
    EngineOutput,
    EngineRequest,
    EngineSpec,
    VllmCalls,
    VllmEngine,
    kept_for_good,
    load_engine_class,
)
from tasks.generation.journal import Key
from tasks.generation.rollout_frame import EngineFacts, publish_rollouts
from tasks.generation.rollout_request import build_request
from tasks.generation.shard_feed import (
    FinishedRollout,
    GenerationSpec,
    QuestionWork,
    RolloutWriter,
    ShardFeed,
    ShardWork,
)
from tasks.parent_death import PARENT_VARIABLE, die_with_parent
from tasks.plan.prompts import ChatTokenizer, build_messages, check_length
from tasks.process_tree import descendants, kill_all


# MERGED from @engine_calls: An engine as scripts use it: a call with many prompts, which returns
# when the last of them has ended.
class EngineCalls(Protocol):
    """What a reference loop needs of an engine. What a call returned is read only after the last call was timed."""

    @property
    def version(self) -> str: ...

    @property
    def dtype(self) -> str: ...

    def generate(self, requests: Sequence[EngineRequest], *, text: bool) -> list[Any]:
        """One call with all ``requests``; returns outputs in their order, for ``finished``."""

    def finished(self, requests: Sequence[EngineRequest], outputs: Sequence[Any]) -> list[EngineOutput]:
        """What a call returned, under the ids of its ``requests``."""


class SteppedCalls:
    """Calls of an engine that a profile names in place of vLLM, made of its own steps."""

    def __init__(self, spec: EngineSpec, engine_class: type[Engine]) -> None:
        self._engine = engine_class(spec)

    @property
    def version(self) -> str:
        return self._engine.version

    @property
    def dtype(self) -> str:
        return self._engine.dtype

    def generate(self, requests: Sequence[EngineRequest], *, text: bool) -> list[Any]:
        for request in requests:
            self._engine.add(request)
        finished: dict[str, EngineOutput] = {}
        while len(finished) < len(requests):
            finished |= {output.request_id: output for output in self._engine.step()}
        return [finished[request.request_id] for request in requests]

    def finished(self, requests: Sequence[EngineRequest], outputs: Sequence[Any]) -> list[EngineOutput]:
        return list(outputs)


def load_calls(backend: str) -> Callable[[EngineSpec], EngineCalls]:
    """What makes the calls of the engine ``module:Class``: vLLM's own ``LLM.generate``, unless it is another engine.

    Raises ConfigError.
    """
    engine_class = load_engine_class(backend)
    return VllmCalls if engine_class is VllmEngine else partial(SteppedCalls, engine_class=engine_class)


# END MERGED
LoopName = Literal["baseline", "script", "limit"]
QUESTIONS_PER_CALL: dict[LoopName, int | None] = {"baseline": 1, "script": 16, "limit": None}
READY_LINE = "reference loop: the engine is ready"


@dataclass(frozen=True, kw_only=True)
class ReferenceOrder:
    """What one process is to do. ``order_seed`` shuffles the questions and the prompts within a call."""

    loop: LoopName
    engine: EngineSpec
    generation: GenerationSpec
    shards: tuple[ShardWork, ...]
    timing: Path
    order_seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class ReferenceTiming:
    """From the first call to the end of the last, on the node's monotonic clock, and what came of it."""

    started: float
    finished: float
    start_seconds: float
    rollouts: int
    tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Prompt:
    request: EngineRequest
    feed: ShardFeed
    question: QuestionWork
    rollout: int


def main() -> None:
    die_with_parent(int(sys.argv[1]))
    os.environ[PARENT_VARIABLE] = str(os.getpid())
    order: ReferenceOrder = pickle.load(sys.stdin.buffer)
    run_loop(order)
    sys.stdout.flush()
    sys.stderr.flush()
    # as in a replica: shutting the engine down can wait for ever, and the exit frees its memory; that of an engine core
    # in a process of its own is freed before another engine is started
    kill_all(descendants(os.getpid()))
    os._exit(0)


def run_loop(order: ReferenceOrder) -> None:
    """Generate every shard of ``order`` and publish its rollouts, and the timing as JSON."""
    began = time.monotonic()
    spec = order.generation
    with kept_for_good():
        load = load_calls(order.engine.settings.backend)
        tokenizer = ChatTokenizer(order.engine.model_path, trust_remote_code=order.engine.settings.trust_remote_code)
        engine = load(order.engine)
    start_seconds = time.monotonic() - began
    print(READY_LINE, flush=True)
    feeds = [ShardFeed(work, spec) for work in order.shards]
    calls = list(_calls(order, feeds, tokenizer))
    # a script takes its text from vLLM; the limit asks for no more than our own loop does
    text = order.loop != "limit"
    outputs: list[list[Any]] = []
    started = time.monotonic()
    for call in calls:
        outputs.append(engine.generate([prompt.request for prompt in call], text=text))
    finished = time.monotonic()
    tokens = 0
    for call, returned in zip(calls, outputs, strict=True):
        for prompt, output in zip(call, engine.finished([item.request for item in call], returned), strict=True):
            tokens += len(output.completion_ids)
            arm, sample_index = prompt.question.rollouts[prompt.rollout]
            rollout = FinishedRollout(
                example_id=prompt.question.example_id,
                arm_id=arm.id,
                sample_index=sample_index,
                prompt_ids=prompt.request.prompt_ids,
                output=output,
            )
            RolloutWriter(prompt.feed.journal, spec, tokenizer).write([rollout])
    facts = EngineFacts(version=engine.version, dtype=engine.dtype)
    for feed in feeds:
        feed.journal.close()
        publish_rollouts(feed.work, spec, facts)
    timing = ReferenceTiming(
        started=started,
        finished=finished,
        start_seconds=start_seconds,
        rollouts=sum(map(len, calls)),
        tokens=tokens,
    )
    publish_json(vars(timing), order.timing)


def _calls(order: ReferenceOrder, feeds: Sequence[ShardFeed], tokenizer: ChatTokenizer) -> list[list[_Prompt]]:
    asked = [_prompts(order, feed, question, tokenizer) for feed in feeds for question in feed.pending]
    questions = [prompts for prompts in asked if prompts]
    size = QUESTIONS_PER_CALL[order.loop] or max(1, len(questions))
    shuffle = None if order.order_seed is None else random.Random(order.order_seed).shuffle
    if shuffle:
        shuffle(questions)
    calls = [list(chain(*questions[start : start + size])) for start in range(0, len(questions), size)]
    if shuffle:
        for call in calls:
            shuffle(call)
    return calls


def _prompts(order: ReferenceOrder, feed: ShardFeed, question: QuestionWork, tokenizer: ChatTokenizer) -> list[_Prompt]:
    spec = order.generation
    prompts: list[_Prompt] = []
    if not question.question:
        for arm, sample_index in question.rollouts:
            _write_error(order, feed, (question.example_id, arm.id, sample_index), "the question is empty", [])
        return prompts
    for position, (arm, sample_index) in enumerate(question.rollouts):
        ids = tokenizer.encode(build_messages(arm, question.question), arm.chat_template_kwargs)
        try:
            check_length(len(ids), spec.sampling.max_tokens, spec.max_model_len)
        except PromptTooLong as error:
            _write_error(order, feed, (question.example_id, arm.id, sample_index), str(error), ids)
            continue
        name = f"{question.example_id}/{arm.id}/{sample_index}"
        request = build_request(name, ids, spec.sampling, question.example_id, arm.id, sample_index)
        prompts.append(_Prompt(request=request, feed=feed, question=question, rollout=position))
    return prompts


def _write_error(order: ReferenceOrder, feed: ShardFeed, key: Key, error: str, ids: list[int]) -> None:
    example_id, arm_id, sample_index = key
    row = FinishedRollout(example_id=example_id, arm_id=arm_id, sample_index=sample_index, prompt_ids=ids, error=error)
    RolloutWriter(feed.journal, order.generation).write([row])


if __name__ == "__main__":
    main()
