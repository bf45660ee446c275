"""The contestants of a benchmark by name, and how each is run once."""

import json
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from flows.bench_settings import CONTESTANTS, PIPELINE
from flows.child_run import run_command
from tasks.errors import ConfigError, HarvestError
from tasks.generation.engine import EngineSpec
from tasks.generation.generation_log import read_sessions
from tasks.generation.reference_loops import LoopName
from tasks.generation.reference_run import reference_plan, run_reference
from tasks.node.engine_memory import default_sequences
from tasks.node.gpu_selection import gpus_of_run, read_used_gpus, smallest_gpu
from tasks.node.nvml import PynvmlReader
from tasks.node.prompt_check import find_prompts, refuse_problems
from tasks.peers.contest import PeerJob
from tasks.peers.contest_requests import write_requests
from tasks.peers.installed import INSTALL, PEERS, installed_peers
from tasks.peers.peer_process import run_peer
from tasks.plan.run_plan import RunPlan
from tasks.records import RunPaths
from tasks.storage.run_files import scan_shards
from tasks.subprocess_call import call_in_subprocess


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What a contestant did; ``finished`` is in seconds since the epoch."""

    place: Path
    finished: float
    seconds: float
    start_seconds: float
    process_seconds: float
    rollouts: int
    tokens: int
    prompt_tokens: int
    gpus: int


@dataclass(frozen=True, kw_only=True)
class Requests:
    """The requests that the contestants of ``tasks.peers`` are given."""

    path: Path
    prompt_tokens: int
    in_flight: int
    """Requests that a client keeps at the engine."""


def choose_contestants(only: str | None, *, peers: bool) -> tuple[tuple[str, ...], str]:
    """Return the contestants that ``--only`` names, or all of ours, and with ``peers`` the installed ones.

    The second value is a line about peers that are asked for and not installed, or "". Raises ConfigError.
    """
    chosen, here = CONTESTANTS if only is None else tuple(only.split(",")), installed_peers()
    known = (*CONTESTANTS, *PEERS)
    if set(chosen) - set(known) or len(set(chosen)) < len(chosen):
        raise ConfigError(f"--only is {only!r}; give each of {', '.join(known)} at most once")
    absent = [peer for peer in PEERS if peer not in here]
    if lacking := [peer for peer in absent if peer in chosen]:
        raise ConfigError(f"--only names {', '.join(lacking)}, but {_how_to_install(lacking)}")
    if not peers:
        return chosen, ""
    return tuple(name for name in known if name in chosen or name in here), _how_to_install(absent)


def _how_to_install(peers: Sequence[str]) -> str:
    return "; ".join(f"{peer} is not installed: pip install {INSTALL[peer]}" for peer in peers)


def prepare_requests(plan: RunPlan, directory: Path) -> Requests:
    """Write the requests of ``plan`` into ``directory``. Raises ConfigError when its prompts have problems."""
    refuse_problems(find_prompts(plan))
    smallest = smallest_gpu(read_used_gpus(plan.profile, PynvmlReader()))
    size, name = (0, "") if smallest is None else (smallest.memory_total or 0, smallest.name or "")
    path = directory / "requests.pickle"
    tokens = call_in_subprocess(write_requests, "the prompts of a benchmark", directory / "requests.log", plan, path)
    return Requests(path=path, prompt_tokens=tokens, in_flight=2 * default_sequences(size, name))


def run_contest(plan: RunPlan, contestant: str, requests: Requests, directory: Path) -> Ran:
    """Run a contestant of ``tasks.peers`` in ``directory``. Raises EngineError when it fails."""
    engine = EngineSpec(model_path=plan.model.path, settings=plan.profile.engine)
    ran = run_peer(
        PeerJob(
            contestant=contestant,
            engine=engine,
            requests=requests.path,
            directory=directory,
            in_flight=requests.in_flight,
        )
    )
    result = ran.result
    return Ran(
        place=directory,
        finished=result.finished,
        seconds=result.finished - result.started,
        start_seconds=ran.start_seconds,
        process_seconds=ran.process_seconds,
        rollouts=result.rollouts,
        tokens=result.tokens,
        prompt_tokens=requests.prompt_tokens,
        gpus=engine.settings.gpus,
    )


def run_loop(plan: RunPlan, loop: LoopName, directory: Path) -> Ran:
    """Run ``loop`` with the settings of ``plan``, as a run in ``directory``. Raises EngineError."""
    run = run_reference(reference_plan(plan, loop, directory, name=loop), loop)
    finished = run.timing.finished + time.time() - time.monotonic()
    return _stored(run.plan.paths, finished, run.process_seconds, run.plan.profile.engine.gpus)


def run_pipeline(plan: RunPlan, given: Mapping[str, Any], directory: Path) -> Ran:
    """Run ``harvest run`` with the parameters ``given``, of which ``plan`` was made. Raises HarvestError."""
    began = time.monotonic()
    ended = subprocess.run(
        run_command({**given, "runs_dir": directory, "name": PIPELINE}),
        capture_output=True,
        text=True,
        check=False,
    )
    process_seconds = time.monotonic() - began
    if ended.returncode:
        raise HarvestError(f"harvest run ended with code {ended.returncode}: {ended.stderr.strip()[-2000:]}")
    paths = RunPaths(root=Path(json.loads(ended.stdout)["run_dir"]))
    last = scan_shards(paths.root, "rollouts").select(pl.col("created_at").max()).collect().item()
    return _stored(paths, last.timestamp(), process_seconds, len(set(gpus_of_run(plan))))


def _stored(paths: RunPaths, finished: float, process_seconds: float, gpus: int) -> Ran:
    """Return what the run in ``paths`` did, from its files."""
    sessions = read_sessions(paths.state / "generation.json")
    rows = scan_shards(paths.root, "rollouts").filter(pl.col("error").is_null())
    columns = (pl.len(), pl.col("num_completion_tokens").sum(), pl.col("num_prompt_tokens").sum())
    rollouts, tokens, prompt_tokens = rows.select(*columns).collect().row(0)
    return Ran(
        place=paths.root,
        finished=finished,
        seconds=sum(session.seconds for session in sessions),
        start_seconds=sum(session.start_seconds for session in sessions),
        process_seconds=process_seconds,
        rollouts=rollouts,
        tokens=tokens,
        prompt_tokens=prompt_tokens,
        gpus=max(1, gpus),
    )
