"""A process whose engine core has ended says how, and ends: also when it waits, as vLLM does for a core for ever."""

import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[3]
_SCRIPT = """
import multiprocessing, signal, sys, threading
from tasks.generation.engine_watch import EngineWatch

if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    helper, core = (context.Process(target=signal.pause, name=name) for name in ("helper", "EngineCore"))
    for child in (helper, core):
        child.start()
    watch = EngineWatch()
    helper.kill()
    helper.join()
    if sys.argv[2] == "has ended":
        watch.end()
        core.kill()
        # the watch itself, once it has seen that
        [thread.join() for thread in threading.enumerate() if thread is not threading.main_thread()]
        sys.exit(3)
    getattr(core, sys.argv[1])()
    with watch.telling():
        if sys.argv[2] == "raises":
            core.join()
            raise ValueError("dead")
        while True:
            signal.pause()
"""


@pytest.mark.parametrize(("ended", "how"), [("kill", "signal 9"), ("terminate", "signal 15")])
@pytest.mark.parametrize("meanwhile", ["waits", "raises"])
def test_the_end_of_an_engine_core_is_told_and_ends_its_process(ended: str, how: str, meanwhile: str) -> None:
    process = subprocess.run(
        [sys.executable, "-c", _SCRIPT, ended, meanwhile], capture_output=True, text=True, check=False, cwd=_ROOT
    )
    assert process.returncode == 1
    told = process.stderr.splitlines()
    assert told[0] == f"engine process EngineCore ended by {how}; this process ends with it"
    assert ("ValueError: dead" in told) == (meanwhile == "raises")


def test_what_ends_after_the_work_is_no_fault() -> None:
    process = subprocess.run(
        [sys.executable, "-c", _SCRIPT, "kill", "has ended"], capture_output=True, text=True, check=False, cwd=_ROOT
    )
    assert (process.returncode, process.stderr) == (3, "")
