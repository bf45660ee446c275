"""Where the replica's time goes: variants of its loop, on one engine, without Prefect.

    python infra/gpu-bench/loop_cost.py PROFILE MODEL QUESTIONS MAX_TOKENS LENGTHS [REPEATS]

- limit: every prompt in one ``LLM.generate`` call;
- steps: ``VllmEngine``, as many requests in flight as a replica keeps, and nothing else;
- loop: the replica's generation loop, its journal and publication in their own process, as in ``harvest run``;
- alone: the same loop, with prompts encoded before and nothing recorded or published.

The engine core is in this process, or in one of its own with VLLM_ENABLE_V1_MULTIPROCESSING=1; then only the work of
this process is seen. Per variant: tokens/s, seconds of the engine's thread and of the process on a core, and seconds
inside vLLM's parts.
"""

import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from tasks.gc_freeze import gc_frozen
from tasks.generation.engine import EngineRequest, EngineSpec, EngineStats
from tasks.generation.engine_environment import engine_environment
from tasks.generation.generation_spec import GenerationSpec, ShardKey, ShardWork
from tasks.generation.loop import GenerationLoop, max_in_flight
from tasks.generation.oom_ladder import build_ladder
from tasks.generation.policy import policies_of
from tasks.generation.recorder import Recorder
from tasks.generation.replica import SWITCH_SECONDS
from tasks.generation.rollout_frame import EngineFacts
from tasks.generation.rollout_request import build_request
from tasks.generation.rollout_writer import FinishedRollout
from tasks.generation.vllm_engine import VllmBatchEngine, VllmEngine
from tasks.node.run_batch import choose_run_batch
from tasks.plan.prompts import ChatTokenizer, build_messages
from tasks.plan.run_config import config_from_parameters
from tasks.plan.run_plan import plan_run
from tasks.plan.shards import shard_dataset
from tasks.process_tree import descendants, kill_all

Timing = tuple[float, int]


class SpawnedRecorder(Recorder):
    context = multiprocessing.get_context("spawn")


class Nothing:
    """A recorder that records nothing."""

    def __init__(self) -> None:
        self._recorded: Counter[ShardKey] = Counter()

    def open(self, work: ShardWork) -> None: ...

    def publish(self, work: ShardWork, facts: EngineFacts) -> None: ...

    def drain(self) -> None: ...

    def record(self, rollouts: Sequence[tuple[ShardKey, FinishedRollout]]) -> None:
        self._recorded.update(key for key, _ in rollouts)

    def take_recorded(self) -> Counter[ShardKey]:
        recorded, self._recorded = self._recorded, Counter()
        return recorded


class Variants:
    def __init__(self, profile: str, model: str, questions: int, max_tokens: int, lengths: str, root: Path) -> None:
        asked = {"profile": profile, "model": model, "questions": questions, "max_tokens": max_tokens}
        plan = plan_run(config_from_parameters({**asked, "lengths": lengths, "top_logprobs": 5}), root)
        on_gpu = plan.profile.expect.device == "cuda"
        os.environ.update(engine_environment(plan.profile.engine, os.environ, on_gpu=on_gpu))
        rung = build_ladder(plan.profile, plan.rollouts_per_question, choose_run_batch(plan))[0]
        engine = rung.engine
        self.root, self.plan, self.shards = root, plan, shard_dataset(plan)
        self.spec = GenerationSpec.of(plan, rung)
        (self.policy,) = policies_of([plan])
        with gc_frozen():
            self.tokenizer = ChatTokenizer(plan.model.path)
            self.batch = VllmBatchEngine(EngineSpec(model_path=plan.model.path, settings=engine))
        sys.setswitchinterval(SWITCH_SECONDS)
        self.core: Any = self.batch._llm.llm_engine
        self.prompts: dict[str, dict[str, list[int]]] = {}
        self.requests: list[EngineRequest] = []
        for row in plan.questions.iter_rows(named=True):
            encoded = self.prompts[row["example_id"]] = {
                arm.id: self.tokenizer.encode(build_messages(arm, row["question"]), arm.chat_template_kwargs)
                for arm in plan.arms.arms
            }
            for arm_id, ids in encoded.items():
                number = str(len(self.requests))
                self.requests.append(build_request(number, ids, self.spec.sampling, row["example_id"], arm_id, 0))

    def limit(self) -> Timing:
        began = time.monotonic()
        outputs = self.batch.generate(self.requests, text=False)
        return time.monotonic() - began, sum(len(output.outputs[0].token_ids) for output in outputs)

    def steps(self) -> Timing:
        engine, waiting, in_flight = self._engine(), list(reversed(self.requests)), 0
        most = max_in_flight(self.spec)
        began = time.monotonic()
        while waiting or in_flight:
            while waiting and in_flight < most:
                engine.add(waiting.pop())
                in_flight += 1
            in_flight -= len(engine.step())
        return time.monotonic() - began, engine.stats.generation_tokens

    def loop(self) -> Timing:
        recorder = SpawnedRecorder(self.tokenizer, self.spec, max_unrecorded=4 * max_in_flight(self.spec))
        first = ShardWork.of(self.policy, self.plan.paths, -1)
        recorder.open(replace(first, journal=self.root / "first.journal"))
        recorder.drain()  # waits until the recorder has started
        try:
            return self._generate(recorder)
        finally:
            recorder.kill()

    def alone(self) -> Timing:
        def encoded(loop: Any) -> None:
            loop._prompts.prefetch = lambda upcoming: None
            loop._prompts.take = lambda question: self.prompts[question.example_id]

        return self._generate(Nothing(), encoded)

    def _engine(self) -> VllmEngine:
        engine = VllmEngine.__new__(VllmEngine)
        engine.stats, engine._engine, engine._partial = EngineStats(), self.core, {}
        return engine

    def _generate(self, recorder: Any, change: Callable[[GenerationLoop], None] = lambda loop: None) -> Timing:
        engine, facts = self._engine(), EngineFacts(version="", dtype="")
        loop = GenerationLoop(engine, self.tokenizer, self.spec, recorder)
        change(loop)
        directory = Path(tempfile.mkdtemp(dir=self.root))
        works = [
            ShardWork(
                policy=self.policy,
                index=shard.index,
                questions=self.plan.paths.questions(shard.index),
                journal=directory / f"{shard.index}.journal",
                rollouts=directory / f"{shard.index}.parquet",
            )
            for shard in self.shards
        ]
        while works or loop.busy:
            while works and loop.needs_shards:
                loop.add_shard(works.pop(0))
            for work in loop.step():
                recorder.publish(work, facts)
        recorder.drain()
        assert loop.first_admitted_at is not None
        assert loop.last_finished_at is not None
        return loop.last_finished_at - loop.first_admitted_at, engine.stats.generation_tokens


def main() -> None:
    profile, model, questions, max_tokens, lengths, *more = sys.argv[1:]
    root = Path(tempfile.mkdtemp())
    try:
        variants = Variants(profile, model, int(questions), int(max_tokens), lengths, root)
        _measure(variants, int(more[0]) if more else 2)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    sys.stdout.flush()
    kill_all(descendants(os.getpid()))  # a core in its own process would outlive this one
    os._exit(0)  # the engine's own shutdown can hang


def _measure(variants: Variants, repeats: int) -> None:
    spent: Counter[str] = Counter()
    core = getattr(variants.core.engine_core, "engine_core", None)
    inside = core and (
        (core.scheduler, "schedule"),
        (core.scheduler, "update_from_output"),
        (core.model_executor, "execute_model"),
        (core.model_executor, "sample_tokens"),
    )
    for owner, name in (
        *(inside or ()),
        (variants.core.engine_core, "get_output"),
        (variants.core.output_processor, "process_outputs"),
        (variants.core, "add_request"),
    ):
        setattr(owner, name, _timed(getattr(owner, name), name, spent))
    rates: dict[str, list[float]] = {}
    variants.limit()  # warms up: no measured variant runs first
    for _ in range(repeats):
        for name in ("limit", "steps", "loop", "alone"):
            variants.core.reset_prefix_cache()
            spent.clear()
            thread, process = time.thread_time(), time.process_time()
            seconds, tokens = getattr(variants, name)()
            thread, process = time.thread_time() - thread, time.process_time() - process
            rates.setdefault(name, []).append(tokens / seconds)
            parts = ", ".join(f"{part} {value:.2f}" for part, value in spent.most_common())
            print(f"{name:6} {tokens / seconds:9,.0f} tokens/s in {seconds:.2f} s; thread {thread:.2f} s, ", end="")
            print(f"process {process:.2f} s; {parts}", flush=True)
    for name, found in rates.items():
        print(f"{name:6} {statistics.median(found) / statistics.median(rates['limit']):.3f} of the limit")


def _timed(call: Callable[..., Any], name: str, spent: Counter[str]) -> Callable[..., Any]:
    def timed(*arguments: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return call(*arguments, **options)
        finally:
            spent[name] += time.perf_counter() - began  # type: ignore[assignment]

    return timed


if __name__ == "__main__":
    main()
