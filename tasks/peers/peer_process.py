"""Runs a contestant in a process of its own, and measures it from spawn to exit."""

import os
import pickle
import subprocess
import sys
import time
from dataclasses import dataclass

from tasks.errors import EngineCrashed, StorageError
from tasks.files import read_record
from tasks.generation.engine_sockets import SOCKETS_VARIABLE, socket_directory
from tasks.generation.failure_classifier import classify_exit
from tasks.node.engine_caches import SPARE_CACHES, cached_environment
from tasks.node.host_memory import count_oom_kills
from tasks.parent_death import guarded_python_path
from tasks.peers.contest import PeerJob, PeerResult, read_requests
from tasks.peers.default_engine import default_environment
from tasks.peers.installed import MODULES
from tasks.time_limits import time_limit

LIMIT_SECONDS = 3 * 3600.0
"""Within these seconds a contestant must end: one that hangs must not hold up the others for ever."""


@dataclass(frozen=True, kw_only=True)
class PeerRun:
    """A contestant's result, and what its process took."""

    result: PeerResult
    start_seconds: float
    """From spawn to the first request."""
    process_seconds: float
    """From spawn to exit."""


def run_peer(job: PeerJob) -> PeerRun:
    """Run the contestant of ``job``. Raises EngineError, with the log, when it fails or leaves out work.

    Raises StorageError when its directory cannot be made.
    """
    try:
        job.directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"could not make {job.directory}: {error}. Free space or fix permissions") from error
    log_path = job.directory / "contestant.log"
    # the pipeline's caches: of two that compile the same, one would start cold and the other warm
    inherited = cached_environment(os.environ, job.directory / SPARE_CACHES)
    environment = default_environment(job.engine.settings, inherited) | {"PYTHONPATH": guarded_python_path()}
    oom_kills = count_oom_kills()
    spawned, began = time.time(), time.monotonic()
    limit = time_limit(LIMIT_SECONDS)
    with log_path.open("wb") as log, socket_directory(os.environ) as sockets:
        try:
            ended = subprocess.run(
                [sys.executable, "-P", "-m", f"tasks.peers.{MODULES[job.contestant]}", str(os.getpid())],
                input=pickle.dumps(job),
                stdout=log,
                stderr=log,
                env=environment | {SOCKETS_VARIABLE: sockets},
                check=False,
                timeout=limit,
            )
        except subprocess.TimeoutExpired:
            raise EngineCrashed(f"{job.contestant} did not end within {limit:.0f} s", log_path=log_path) from None
    process_seconds = time.monotonic() - began
    if ended.returncode:
        raise classify_exit(ended.returncode, log_path, "run", oom_kills=count_oom_kills() - oom_kills)
    result = read_record(job.result, PeerResult)
    assert result is not None
    if problem := _missing(result, job):
        raise EngineCrashed(f"{job.contestant} {problem}", log_path=log_path)
    return PeerRun(result=result, start_seconds=result.started - spawned, process_seconds=process_seconds)


def _missing(result: PeerResult, job: PeerJob) -> str:
    """Why ``result`` is not that of the work in ``job``; "" when it is."""
    requests = read_requests(job.requests)
    if result.rollouts != len(requests):
        return f"completed {result.rollouts} of {len(requests)} requests"
    wanted = sum(request.max_tokens for request in requests)
    if all(request.ignore_eos for request in requests) and result.tokens != wanted:
        return f"made {result.tokens} completion tokens, but {wanted} were asked for"
    return ""
