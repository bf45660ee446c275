"""Starts one engine as a run would, so that its caches are filled before the run: ``harvest preflight --warm``."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from pathlib import Path

from tasks.errors import HarvestError, PreflightFailed
from tasks.generation.filled_caches import FilledCaches
from tasks.generation.lora_spec import LoraSpec
from tasks.generation.oom_ladder import build_ladder
from tasks.generation.replica_messages import Ready, Stop
from tasks.generation.replica_supervisor import ReplicaSupervisor
from tasks.generation.rung_state import load_rung
from tasks.node.engine_caches import StartKind, check_engine_caches, chosen_caches
from tasks.node.gpu_selection import gpus_per_replica
from tasks.node.run_batch import choose_run_batch
from tasks.plan.run_plan import RunPlan

_POLL_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """What became of the start."""

    start_kind: StartKind
    """Cold: the caches were filled by this start. Warm: they had been filled before."""
    seconds: float
    """From the start of the process until the engine was ready."""
    caches: str
    """The directory of the compiled graphs."""


def has_nothing_to_warm(plan: RunPlan) -> bool:
    """Return whether the plan's engines compile nothing: on a CPU, with ``enforce_eager``."""
    return plan.profile.engine.enforce_eager and plan.profile.expect.device == "cpu"


def check_caches(environment: Mapping[str, str]) -> None:
    """Raise PreflightFailed when the engines' caches cannot be written, so that nothing could be kept."""
    check = check_engine_caches(environment)
    if check.status != "pass":
        raise PreflightFailed(str(check))


def warm_caches(plan: RunPlan) -> WarmStart:
    """Start an engine with the settings with which the run of ``plan`` would begin, and end it. Call ``check_caches``.

    One engine is enough: the others of a node have the same settings. Its log is below the runs directory, in
    ``.warm``, and stays there only if the start fails. The engine dies with the calling thread. Raises EngineError,
    StorageError or ConfigError.
    """
    above = plan.paths.root.parent / ".warm"
    above.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f"{plan.run_id}-", dir=above))
    ladder = build_ladder(plan.profile, plan.rollouts_per_question, choose_run_batch(plan))
    gpus = gpus_per_replica(plan, os.environ.get("CUDA_VISIBLE_DEVICES"))[0]
    replica = ReplicaSupervisor(
        0, gpus, replace(plan, paths=replace(plan.paths, root=scratch)), lora=LoraSpec.with_room(plan.lora)
    )
    rung = ladder[min(load_rung(plan), len(ladder) - 1)]
    root = chosen_caches(os.environ).root
    failed = False
    try:
        replica.start(rung)
        ready = _wait_until_ready(replica)
        seconds = replica.start_seconds
    except HarvestError:
        failed = True
        raise
    finally:
        if replica.process is not None:
            replica.process.send(Stop())
            replica.end(graceful=replica.process.ready)
        if not failed:
            # also after Ctrl-C
            shutil.rmtree(scratch, ignore_errors=True)
    FilledCaches(plan, root).add(rung.engine, ready.start_kind)
    return WarmStart(start_kind=ready.start_kind, seconds=seconds, caches=str(root))


def _wait_until_ready(replica: ReplicaSupervisor) -> Ready:
    while True:
        assert replica.process is not None
        wait([replica.process.connection], _POLL_SECONDS)
        for message in replica.receive():
            if isinstance(message, Ready):
                return message
