"""What a contestant of a benchmark is given, and what it tells: the same requests for all, and two moments.

A contestant is a module of this room that runs in a process of its own, ``python -m tasks.peers.NAME PARENT_PID``. It
reads its PeerJob, pickled, from standard input.
"""

import os
import pickle
import resource
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.files import atomic_path, publish_json
from tasks.generation.engine import EngineRequest, EngineSpec, sampling_values
from tasks.parent_death import PARENT_VARIABLE, die_as_engine, die_with_parent
from tasks.process_tree import descendants, kill_all

OPEN_FILES = 65_536


@dataclass(frozen=True, kw_only=True)
class PeerJob:
    """The work of one contestant."""

    contestant: str
    """Its name in the benchmark."""
    engine: EngineSpec
    """Only what says which model and how much memory counts: ``default_arguments``."""
    requests: Path
    """A file of ``save_requests``."""
    directory: Path
    """For everything that the contestant writes; it is made before."""
    in_flight: int
    """Requests that a client keeps at the engine: twice vLLM's own limit, so that its queue is never empty."""

    @property
    def result(self) -> Path:
        """The file of the PeerResult."""
        return self.directory / "result.json"


@dataclass(frozen=True, kw_only=True)
class PeerResult:
    """What one contestant did. Moments are in seconds since the epoch."""

    started: float
    """When the ready engine was given the first request."""
    finished: float
    """When the last completion was there."""
    rollouts: int
    tokens: int
    """Completion tokens."""


def save_requests(requests: list[EngineRequest], path: Path) -> None:
    """Write the requests of a benchmark, in the pipeline's order. Raises StorageError when they cannot be written."""
    with atomic_path(path) as written:
        written.write_bytes(pickle.dumps(requests))


def read_requests(path: Path) -> list[EngineRequest]:
    """Return what ``save_requests`` wrote."""
    requests: list[EngineRequest] = pickle.loads(path.read_bytes())
    return requests


def sampling_of(request: EngineRequest) -> dict[str, Any]:
    """Return the sampling parameters of ``request`` under vLLM's names, with its seed, without logprobs."""
    return {**sampling_values(request), "seed": request.seed}


def compete(contest: Callable[[PeerJob], PeerResult]) -> None:
    """Run the contestant of this process: ``contest`` of the job in standard input. Does not return."""
    die_with_parent(int(sys.argv[1]))
    os.environ[PARENT_VARIABLE] = str(os.getpid())
    # datatrove forks helpers and vLLM its engine core, which would outlive this process
    os.register_at_fork(after_in_child=lambda: die_as_engine(os.getppid()))
    # a client and a server have a connection, a file each, for every request in flight
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most if 0 <= most < OPEN_FILES else OPEN_FILES, most))
    code = 1
    try:
        job: PeerJob = pickle.load(sys.stdin.buffer)
        publish_json(asdict(contest(job)), job.result)
        code = 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    # servers and engine cores hold memory that the next contestant needs
    kill_all(descendants(os.getpid()))
    os._exit(code)
