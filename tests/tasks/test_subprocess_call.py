"""A call in a subprocess returns and fails as one in this process would, and leaves no process behind."""

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
from tasks.subprocess_call import call_in_subprocess
from tests.support.harvest_command import environment

FLOW = """
import sys, time
from pathlib import Path
from tasks.subprocess_call import call_in_subprocess
call_in_subprocess(time.sleep, "sleep", Path(sys.argv[1]), 60)
"""


def double(number: int) -> int:
    print("to standard output")
    return 2 * number


def fail(kind: type[Exception]) -> None:
    raise kind("raised by the function")


def fail_retryably() -> None:
    raise UploadError("no answer", retryable=True)


def children_of(pid: int) -> list[psutil.Process]:
    return [child for child in psutil.Process(pid).children() if "tasks.subprocess_call" in child.cmdline()]


def wait_for(condition: Callable[[], object]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("waited for 30 s")


def test_the_result_is_returned_and_the_output_logged(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "call.log"
    assert call_in_subprocess(double, "double", log, 21) == 42
    assert log.read_text() == "to standard output\n"


@pytest.mark.parametrize("kind", [ConfigError, NotEquivalent])
def test_a_failure_keeps_its_type_and_so_its_exit_code(kind: type[HarvestError], tmp_path: Path) -> None:
    with pytest.raises(kind, match=r"^raised by the function$"):
        call_in_subprocess(fail, "failure", tmp_path / "log", kind)
    assert "raised by the function" in (tmp_path / "log").read_text()


def test_a_failure_stays_retryable(tmp_path: Path) -> None:
    with pytest.raises(UploadError) as raised:
        call_in_subprocess(fail_retryably, "upload", tmp_path / "log")
    assert raised.value.retryable


def test_an_unexpected_error_names_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(HarvestError, match=rf"failure: the process ended with code 1: KeyError: .*\(log: {log}\)"):
        call_in_subprocess(fail, "failure", log, KeyError)


def test_the_error_says_that_the_process_was_killed(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(call_in_subprocess, time.sleep, "sleep", tmp_path / "log", 60)
        wait_for(lambda: children_of(os.getpid()) or call.done())
        children_of(os.getpid())[0].kill()
        with pytest.raises(HarvestError, match="sleep: the process was killed, as the kernel does when memory runs"):
            call.result()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_the_subprocess_dies_with_the_flow(number: signal.Signals, tmp_path: Path) -> None:
    flow = subprocess.Popen(
        [sys.executable, "-c", FLOW, str(tmp_path / "log")], env=environment(), stderr=subprocess.DEVNULL
    )
    wait_for(lambda: children_of(flow.pid))
    (child,) = children_of(flow.pid)
    flow.send_signal(number)
    flow.wait(timeout=30)
    # the process that adopts it may leave it as a zombie
    wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
