"""Runs a reference loop in its own process and stores the result as a run directory, to be compared like any other."""

import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tasks.files import read_json, read_record
from tasks.generation.engine import EngineSpec
from tasks.generation.engine_environment import engine_environment
from tasks.generation.engine_sockets import SOCKETS_VARIABLE, socket_directory
from tasks.generation.failure_classifier import classify_exit
from tasks.generation.generation_log import GenerationSession, add_session, utc_of
from tasks.generation.generation_spec import GenerationSpec, ShardWork
from tasks.generation.lora_spec import LoraSpec
from tasks.generation.oom_ladder import Rung
from tasks.generation.policy import policies_of
from tasks.generation.reference_loops import QUESTIONS_PER_CALL, READY_LINE, LoopName, ReferenceJob, ReferenceTiming
from tasks.node.auto_batch import auto_engine
from tasks.node.engine_caches import SPARE_CACHES, cached_environment
from tasks.node.host_memory import count_oom_kills
from tasks.node.prompt_check import find_prompts, record_prompts, refuse_problems
from tasks.node.run_batch import choose_run_batch
from tasks.parent_death import guarded_python_path
from tasks.plan.fingerprint import fingerprint, tested_settings
from tasks.plan.run_directory import open_run
from tasks.plan.run_plan import RunPlan
from tasks.plan.shards import make_scores, shard_dataset
from tasks.plan.waves import find_remaining
from tasks.records import RunPaths
from tasks.storage.published import record_published


@dataclass(frozen=True, kw_only=True)
class ReferenceRun:
    """A stored reference run, and the timing of its calls."""

    plan: RunPlan
    timing: ReferenceTiming
    process_seconds: float
    """From the start of the loop's process to its exit."""


def reference_plan(
    plan: RunPlan, loop: LoopName, runs_dir: Path, *, name: str, order_seed: int | None = None
) -> RunPlan:
    """Return ``plan`` with ``loop`` in place of the generation loop. It is comparable, but has its own fingerprint."""
    engine, auto = plan.profile.engine, choose_run_batch(plan)
    if auto is not None:
        engine = auto_engine(plan.profile, auto.sequences)  # the loops have the settings that the pipeline has
    profile = plan.profile.model_copy(
        update={"question_batch_size": QUESTIONS_PER_CALL[loop], "generation": "loop", "engine": engine}
    )
    tested = tested_settings(profile, plan.shard_size) | {"generation": f"LLM.generate ({loop})"}
    if order_seed is not None:
        tested["order_seed"] = order_seed
    digest = fingerprint(plan.comparable, tested, plan.config.sampling)
    root = runs_dir / f"{name}-{digest[:10]}"
    return replace(plan, profile=profile, tested=tested, fingerprint=digest, paths=RunPaths(root=root))


def run_reference(
    plan: RunPlan,
    loop: LoopName,
    *,
    order_seed: int | None = None,
    run: Callable[[ReferenceJob, Path, bool], None] | None = None,
) -> ReferenceRun:
    """Delete earlier results, then generate and score ``plan``, made by ``reference_plan``. Raises EngineError.

    ``run`` is what runs a job, given its log and whether it is on a GPU: a process of its own by default.
    """
    paths = plan.paths
    refuse_problems(find_prompts(plan))
    open_run(plan)
    for directory in (paths.root / "rollouts", paths.root / "scores", paths.state):
        shutil.rmtree(directory, ignore_errors=True)
    record_prompts(plan)
    shards = shard_dataset(plan)
    timing_path = paths.state / "timing.json"
    (policy,) = policies_of([plan])
    job = ReferenceJob(
        loop=loop,
        engine=EngineSpec.of(plan, plan.profile.engine, lora=LoraSpec.of([policy], plan.lora)),
        generation=GenerationSpec.of(
            plan,
            Rung(index=0, question_batch_size=int(plan.profile.question_batch_size), engine=plan.profile.engine),
        ),
        shards=tuple(ShardWork.of(policy, paths, shard.index) for shard in shards),
        timing=timing_path,
        order_seed=order_seed,
    )
    began = time.monotonic()
    (run or _run_process)(job, paths.logs / "reference.log", plan.profile.expect.device == "cuda")
    process_seconds = time.monotonic() - began
    for index in (shard.index for shard in shards):
        record_published(paths.rollouts(index))
        make_scores(plan, index)
        paths.journal(index).unlink()
    timing = read_record(timing_path, ReferenceTiming)
    assert timing is not None
    _log_session(plan, timing)
    return ReferenceRun(plan=plan, timing=timing, process_seconds=process_seconds)


def reference_finished(plan: RunPlan) -> bool:
    """Return whether every shard of the reference run is generated, scored and intact."""
    config = read_json(plan.paths.config)
    if not isinstance(config, dict) or config.get("fingerprint") != plan.fingerprint:
        return False
    return not find_remaining(plan, shard_dataset(plan))


def _run_process(job: ReferenceJob, log_path: Path, on_gpu: bool) -> None:
    log_path.parent.mkdir(parents=True, exist_ok=True)
    environment = cached_environment(os.environ, job.timing.parent / SPARE_CACHES)
    oom_kills = count_oom_kills()
    with log_path.open("wb") as log, socket_directory(os.environ) as sockets:
        ended = subprocess.run(
            [sys.executable, "-P", "-m", "tasks.generation.reference_loops", str(os.getpid())],
            input=pickle.dumps(job),
            stdout=log,
            stderr=log,
            env=engine_environment(job.engine.settings, environment, on_gpu=on_gpu)
            | {"PYTHONPATH": guarded_python_path(), SOCKETS_VARIABLE: sockets},
            check=False,
        )
    if ended.returncode:
        ready = READY_LINE.encode() in log_path.read_bytes()
        raise classify_exit(
            ended.returncode, log_path, "run" if ready else "start", oom_kills=count_oom_kills() - oom_kills
        )


def _log_session(plan: RunPlan, timing: ReferenceTiming) -> None:
    on_gpu = plan.profile.expect.device == "cuda"
    add_session(
        plan.paths.state / "generation.json",
        GenerationSession(
            started_at=utc_of(timing.started),
            seconds=timing.finished - timing.started,
            start_seconds=timing.start_seconds,
            tokens=timing.tokens,
            rollouts=timing.rollouts,
            restarts=0,
            replicas=1,
            gpus=plan.profile.engine.gpus if on_gpu else 0,
        ),
    )
