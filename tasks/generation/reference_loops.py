"""Runs the loops that benchmarks compare the generation loop with: calls of ``LLM.generate`` and nothing else.

- baseline: one question with all its arms per call, as the original script does;
- script: 16 questions per call, as "optimized" scripts do; each call waits for the last sequence of the one before.

Only the calls are timed: prompts are encoded before, and rollouts are stored after. Each loop runs in a process of its
own, ``python -m tasks.generation.reference_loops PARENT_PID``, with a replica's environment. The process reads its
ReferenceJob, pickled, from standard input.
"""

import os
import pickle
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from tasks.errors import ConfigError, PromptTooLong
from tasks.files import publish_json
from tasks.gc_freeze import gc_frozen
from tasks.generation.batch_engine import load_batch_engine
from tasks.generation.engine import EngineRequest, EngineSpec
from tasks.generation.engine_watch import EngineWatch, exit_now
from tasks.generation.generation_spec import GenerationSpec, ShardWork
from tasks.generation.journal import Key
from tasks.generation.rollout_frame import EngineFacts, publish_rollouts
from tasks.generation.rollout_request import build_request
from tasks.generation.rollout_writer import FinishedRollout, RolloutWriter
from tasks.generation.shard_feed import QuestionWork, ShardFeed
from tasks.parent_death import PARENT_VARIABLE, ForkGuard, die_with_parent
from tasks.plan.prompts import ChatTokenizer, build_messages, check_length
from tasks.process_tree import descendants, kill_all

LoopName = Literal["baseline", "script"]
QUESTIONS_PER_CALL: dict[LoopName, int] = {"baseline": 1, "script": 16}
READY_LINE = "reference loop: the engine is ready"


@dataclass(frozen=True, kw_only=True)
class ReferenceJob:
    """The work of one process. ``order_seed`` shuffles the questions, and the prompts within each call."""

    loop: LoopName
    engine: EngineSpec
    generation: GenerationSpec
    shards: tuple[ShardWork, ...]
    timing: Path
    order_seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class ReferenceTiming:
    """The start of the first call and the end of the last, on the node's monotonic clock, and what was generated."""

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
    _guard = ForkGuard([])
    job: ReferenceJob = pickle.load(sys.stdin.buffer)
    try:
        watch = EngineWatch()
        with watch.telling():
            run_loop(job)
        watch.end()
    except SystemExit as error:
        # code 0 would look like the end of the work
        raise RuntimeError(f"the engine called sys.exit({error.code})") from error
    # an engine core in its own process must be killed, so that its memory is free before another engine starts
    kill_all(descendants(os.getpid()))
    exit_now(0)


def run_loop(job: ReferenceJob) -> None:
    """Generate every shard of ``job``, publish its rollouts, and write the timing as JSON."""
    began = time.monotonic()
    spec = job.generation
    with gc_frozen():
        build_engine = load_batch_engine(job.engine.settings.backend)
        tokenizer = ChatTokenizer(job.engine.model_path, trust_remote_code=job.engine.settings.trust_remote_code)
        engine = build_engine(job.engine)
    start_seconds = time.monotonic() - began
    print(READY_LINE, flush=True)
    feeds = [ShardFeed(work, spec) for work in job.shards]
    calls = list(_calls(job, feeds, tokenizer))
    outputs: list[list[Any]] = []
    started = time.monotonic()
    for call in calls:
        outputs.append(engine.generate([prompt.request for prompt in call], text=True))
    finished = time.monotonic()
    tokens = 0
    for call, returned in zip(calls, outputs, strict=True):
        for prompt, output in zip(call, engine.convert_outputs([item.request for item in call], returned), strict=True):
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
    publish_json(vars(timing), job.timing)


def _calls(job: ReferenceJob, feeds: Sequence[ShardFeed], tokenizer: ChatTokenizer) -> list[list[_Prompt]]:
    asked = [_prompts(job, feed, question, tokenizer) for feed in feeds for question in feed.pending]
    questions = [prompts for prompts in asked if prompts]
    size = QUESTIONS_PER_CALL[job.loop]
    shuffle = None if job.order_seed is None else random.Random(job.order_seed).shuffle
    if shuffle:
        shuffle(questions)
    calls = [list(chain(*questions[start : start + size])) for start in range(0, len(questions), size)]
    if shuffle:
        for call in calls:
            shuffle(call)
    return calls


def _prompts(job: ReferenceJob, feed: ShardFeed, question: QuestionWork, tokenizer: ChatTokenizer) -> list[_Prompt]:
    spec = job.generation
    prompts: list[_Prompt] = []
    if not question.question:
        for arm, sample_index in question.rollouts:
            _write_error(job, feed, (question.example_id, arm.id, sample_index), "the question is empty", [])
        return prompts
    for position, (arm, sample_index) in enumerate(question.rollouts):
        ids: list[int] = []
        try:
            ids = tokenizer.encode(build_messages(arm, question.question), arm.chat_template_kwargs)
            check_length(len(ids), spec.sampling.max_tokens, spec.max_model_len)
        except (ConfigError, PromptTooLong) as error:
            _write_error(job, feed, (question.example_id, arm.id, sample_index), str(error), ids)
            continue
        name = f"{question.example_id}/{arm.id}/{sample_index}"
        adapter = feed.work.policy.adapter
        request = build_request(name, ids, spec.sampling, question.example_id, arm.id, sample_index, adapter=adapter)
        prompts.append(_Prompt(request=request, feed=feed, question=question, rollout=position))
    return prompts


def _write_error(job: ReferenceJob, feed: ShardFeed, key: Key, error: str, ids: list[int]) -> None:
    example_id, arm_id, sample_index = key
    row = FinishedRollout(example_id=example_id, arm_id=arm_id, sample_index=sample_index, prompt_ids=ids, error=error)
    RolloutWriter(feed.journal, job.generation).write([row])


if __name__ == "__main__":
    main()
