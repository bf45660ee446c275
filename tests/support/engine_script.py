"""Scripts that start vLLM's engine, each in a process of its own: one that continues cannot shut it down.

To import vLLM takes as long as to start a small engine. So one process imports it, and forks another for each script.
"""

import functools
import json
import pickle
import tempfile
from pathlib import Path
from typing import Any

from tasks.generation.reference_loops import ReferenceJob
from tests.support.forks import Forks
from tests.support.harvest_command import ROOT, environment

_IMPORTS = """
import os
from profiles.engine_settings import EngineSettings
from tasks.generation.engine_environment import engine_environment
from tasks.generation.vllm_engine import import_vllm
# what torch reads when it is imported
os.environ |= engine_environment(EngineSettings(enforce_eager=True, kv_cache_space_gib=1), os.environ, on_gpu=False)
import_vllm()
"""
# an engine need not be taken down
_END = "\nimport os, sys; sys.stdout.flush(); os._exit(0)"


@functools.cache
def _forks() -> Forks:
    return Forks(_IMPORTS, environment())


def run_engine_script(script: str, *arguments: object, **variables: str) -> Any:
    """Run ``script`` with ``arguments`` in the project's folder, and return the JSON in its last line of output.

    The engine must be eager and float32 or bfloat16, on a CPU. What uses this is in ``ENGINE_MODULES`` of
    ``tests/conftest.py``, so that one process imports vLLM for all.
    """
    ended = _forks().run(script + _END, [*map(str, arguments)], environment(**variables), ROOT)
    assert ended.code == 0, f"{ended.code}{ended.err[-3000:]}"
    return json.loads(ended.out.splitlines()[-1])


_RUN_LOOP = """
import os, pickle, sys
from pathlib import Path
from tasks.generation.engine_environment import engine_environment
from tasks.generation.reference_loops import run_loop
job = pickle.loads(Path(sys.argv[1]).read_bytes())
os.environ |= engine_environment(job.engine.settings, os.environ, on_gpu=False)
run_loop(job)
print("null", flush=True)
"""


def run_loop_here(job: ReferenceJob, log_path: Path, on_gpu: bool) -> None:
    """Run a reference loop as ``run_reference`` does, but forked from the process that has imported vLLM."""
    assert not on_gpu
    with tempfile.NamedTemporaryFile() as pickled:
        Path(pickled.name).write_bytes(pickle.dumps(job))
        run_engine_script(_RUN_LOOP, pickled.name)
