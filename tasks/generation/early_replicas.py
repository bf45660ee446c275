"""Replica processes that import vLLM while their run is still being prepared: that takes 20 s on a node with GPUs.

They import and do nothing else: they hold no GPU, write nothing, and die with the thread that began them. A replica
that starts later takes one of them, if its environment is the same; any other begins with a process of its own.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO

from profiles.engine_settings import EngineSettings
from tasks.generation.engine_environment import engine_environment
from tasks.generation.engine_sockets import SOCKETS_VARIABLE
from tasks.generation.replica_messages import Adopt, FromReplica, ToReplica
from tasks.node.engine_caches import SPARE_CACHES, cached_environment, chosen_caches
from tasks.node.gpu_selection import gpus_per_replica
from tasks.parent_death import guarded_python_path
from tasks.plan.run_plan import RunPlan
from tasks.plan.shards import rollouts_to_make

_READ_LATER = (SOCKETS_VARIABLE, "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY")
"""Variables that are read when an engine starts, so that they may change after the import of vLLM."""
_OF_ENGINES = ("VLLM_", "TORCH", "PYTORCH_", "CUDA_", "TRITON_", "FLASHINFER_", "OMP_", "HF_", "XDG_")
"""What the names of variables begin with that may be read at the import. Others change while a run is prepared."""


@dataclass(frozen=True, kw_only=True)
class Spawned:
    """A process of ``tasks.generation.replica``, the connection to it, and the environment that it was given."""

    process: "subprocess.Popen[bytes]"
    connection: "Connection[ToReplica, FromReplica]"
    environment: dict[str, str]


_early: list[Spawned] = []


@contextlib.contextmanager
def begun_early(plans: Sequence[RunPlan]) -> Iterator[None]:
    """Import vLLM for the replicas of ``plans`` meanwhile, if they are to run vLLM on GPUs and have work to do.

    The first plan states the engines. A run on a CPU gains nothing: its import would take the cores from what else is
    prepared.
    """
    plan = plans[0]
    engine = plan.profile.engine
    is_cuda, has_work = plan.profile.expect.device == "cuda", any(map(rollouts_to_make, plans))
    # caches in the run's directory must not be made before the directory is
    if is_cuda and has_work and engine.backend == "vllm" and not chosen_caches(os.environ).problem:
        for gpus in gpus_per_replica(plan, os.environ.get("CUDA_VISIBLE_DEVICES")):
            begin_with(replica_environment(engine, gpus, {}, plan.paths.state / SPARE_CACHES))
    try:
        yield
    finally:
        end_early()


def begin_with(environment: dict[str, str]) -> None:
    """Begin a process with ``environment`` that imports vLLM. A machine without room for it is no error."""
    with contextlib.suppress(OSError), tempfile.TemporaryFile() as output:
        _early.append(spawn(environment, output, early=True))


def take_early(environment: dict[str, str], log_path: Path) -> Spawned | None:
    """Return a process that was begun early with ``environment``, which goes on with its log at ``log_path``."""
    for spawned in tuple(_early):
        if spawned.process.poll() is not None:
            _end(spawned)
        elif _at_import(spawned.environment) == _at_import(environment):
            with contextlib.suppress(OSError):
                spawned.connection.send(Adopt(log_path=log_path.absolute(), environment=environment))
                _early.remove(spawned)
                return spawned
            _end(spawned)
    return None


def end_early() -> None:
    """End the processes that nobody has taken."""
    for spawned in tuple(_early):
        _end(spawned)


def spawn(environment: dict[str, str], output: IO[bytes], *, early: bool = False) -> Spawned:
    """Start a replica process that writes to ``output``. Raises OSError."""
    connection, child_end = Pipe()
    # -P: do not import a folder named "tasks" from the user's working directory
    words = [sys.executable, "-P", "-m", "tasks.generation.replica", str(child_end.fileno()), str(os.getpid())]
    try:
        # not multiprocessing's spawn, which would run the flow's main module again in the child
        process = subprocess.Popen(
            [*words, "early"] if early else words,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[child_end.fileno()],
            env=environment,
        )
    except OSError:
        connection.close()
        raise
    finally:
        child_end.close()
    return Spawned(process=process, connection=connection, environment=environment)


def replica_environment(
    engine: EngineSettings, gpus: list[str] | None, more: Mapping[str, str], spare_caches: Path
) -> dict[str, str]:
    """Return the environment of a replica on ``gpus``, with the variables ``more``. Makes the engine's caches."""
    inherited = cached_environment(os.environ, spare_caches)
    environment = {**engine_environment(engine, inherited, on_gpu=gpus is not None), **more}
    environment["PYTHONPATH"] = guarded_python_path()
    if gpus is not None:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    return environment


def _at_import(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value for name, value in environment.items() if name.startswith(_OF_ENGINES) and name not in _READ_LATER
    }


def _end(spawned: Spawned) -> None:
    _early.remove(spawned)
    spawned.process.kill()
    spawned.process.wait()
    spawned.connection.close()
