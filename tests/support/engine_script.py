"""Scripts that start vLLM's engine, each in a process of its own: one that continues cannot shut it down.

To import vLLM takes as long as to start a small engine. So one process imports it, and forks another for each script.
"""

import atexit
import functools
import json
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tasks.generation.reference_loops import ReferenceJob
from tests.support.harvest_command import ROOT, environment
from tests.support.left_behind import outlives_the_test

_FORKS = """
import gc, json, os, sys, traceback
from profiles.engine_settings import EngineSettings
from tasks.generation.engine_environment import engine_environment
from tasks.generation.vllm_engine import import_vllm
from tasks.parent_death import die_with_parent
die_with_parent(int(sys.argv[1]))
# what torch reads when it is imported
os.environ |= engine_environment(EngineSettings(enforce_eager=True, kv_cache_space_gib=1), os.environ, on_gpu=False)
import_vllm()
# each engine collects garbage several times, and would look at all that was imported
gc.collect()
gc.freeze()
server = os.getpid()
for line in sys.stdin:
    script, sys.argv, variables, folder = json.loads(line)
    if (pid := os.fork()) == 0:
        die_with_parent(server)
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT), number)
        os.environ |= variables
        try:
            exec(script, {"__name__": "__main__"})
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        sys.stdout.flush()
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@functools.cache
def _server() -> "subprocess.Popen[str]":
    """The process that has imported vLLM. It ends with this one."""
    command = [sys.executable, "-c", _FORKS, str(os.getpid())]
    server = subprocess.Popen(
        command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    outlives_the_test(server.pid)
    atexit.register(server.communicate)
    return server


def run_engine_script(script: str, *arguments: object, **variables: str) -> Any:
    """Run ``script`` with ``arguments`` in the project's folder, and return the JSON in its last line of output.

    The engine must be eager and float32 or bfloat16, on a CPU. What uses this is in ``ENGINE_MODULES`` of
    ``tests/conftest.py``, so that one process imports vLLM for all.
    """
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        order = (script, ["-c", *map(str, arguments)], environment(**variables), folder)
        server.stdin.write(json.dumps(order) + "\n")
        server.stdin.flush()
        code = server.stdout.readline()
        assert code == "0\n", f"{code}{(Path(folder) / 'err').read_text(errors='replace')[-3000:]}"
        return json.loads((Path(folder) / "out").read_text().splitlines()[-1])


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
