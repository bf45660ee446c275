"""Work in a process of its own fails as it would here, and leaves no process behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tasks.errors import ConfigError, HarvestError, NotEquivalent, UploadError
from tasks.subprocess_call import work_apart
from tests.support.harvest_command import environment

FLOW = """
import sys, time
from pathlib import Path
from tasks.subprocess_call import work_apart
work_apart(time.sleep, Path(sys.argv[1]), "sleeps", 60)
"""


def double(number: int) -> int:
    print("to standard output")
    return 2 * number


def fail(kind: type[Exception]) -> None:
    raise kind("said by the work")


def fail_for_now() -> None:
    raise UploadError("no answer", retryable=True)


def children_of(pid: int) -> list[psutil.Process]:
    return [child for child in psutil.Process(pid).children() if "tasks.subprocess_call" in child.cmdline()]


def wait_for(condition: Callable[[], object]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("waited for 30 s")


def test_its_result_comes_back_and_its_words_are_kept(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "work.log"
    assert work_apart(double, log, "doubles", 21) == 42
    assert log.read_text() == "to standard output\n"


@pytest.mark.parametrize("kind", [ConfigError, NotEquivalent])
def test_a_failure_has_its_type_and_so_its_exit_code(kind: type[HarvestError], tmp_path: Path) -> None:
    with pytest.raises(kind, match=r"^said by the work$"):
        work_apart(fail, tmp_path / "log", "fails", kind)
    assert "said by the work" in (tmp_path / "log").read_text()


def test_whether_it_can_succeed_later_is_kept(tmp_path: Path) -> None:
    with pytest.raises(UploadError) as raised:
        work_apart(fail_for_now, tmp_path / "log", "uploads")
    assert raised.value.retryable


def test_a_defect_names_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(HarvestError, match=rf"the process that fails ended with code 1: KeyError: .*\(log: {log}\)"):
        work_apart(fail, log, "fails", KeyError)


def test_one_that_is_killed_says_so(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(work_apart, time.sleep, tmp_path / "log", "sleeps", 60)
        wait_for(lambda: children_of(os.getpid()) or work.done())
        children_of(os.getpid())[0].kill()
        with pytest.raises(HarvestError, match="sleeps was killed, as the kernel does when memory runs out"):
            work.result()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_it_dies_with_the_flow(number: signal.Signals, tmp_path: Path) -> None:
    flow = subprocess.Popen(
        [sys.executable, "-c", FLOW, str(tmp_path / "log")], env=environment(), stderr=subprocess.DEVNULL
    )
    wait_for(lambda: children_of(flow.pid))
    (work,) = children_of(flow.pid)
    flow.send_signal(number)
    flow.wait(timeout=30)
    # who adopts it may leave it as a zombie
    wait_for(lambda: not work.is_running() or work.status() == psutil.STATUS_ZOMBIE)
