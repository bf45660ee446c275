"""A call in a subprocess returns and fails as one in this process would, and leaves no process behind."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tasks.errors import ConfigError, HarvestError, NotEquivalent, UploadError
from tasks.subprocess_call import call_in_subprocess
from tests.support.harvest_command import environment
from tests.support.patience import await_exit, until

FLOW = """
import signal, sys
from pathlib import Path
from tasks.subprocess_call import call_in_subprocess
call_in_subprocess(signal.pause, "pause", Path(sys.argv[1]))
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
        call = pool.submit(call_in_subprocess, signal.pause, "pause", tmp_path / "pause.log")
        until(lambda: children_of(os.getpid()) or call.done(), "the subprocess")
        children_of(os.getpid())[0].kill()
        with pytest.raises(HarvestError, match="pause: the process was killed, as the kernel does when memory runs"):
            call.result()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_the_subprocess_dies_with_the_flow(number: signal.Signals, tmp_path: Path) -> None:
    flow = subprocess.Popen(
        [sys.executable, "-c", FLOW, str(tmp_path / "pause.log")], env=environment(), stderr=subprocess.DEVNULL
    )
    (child,) = until(lambda: children_of(flow.pid), "the subprocess", alive=[flow])
    flow.send_signal(number)
    await_exit(flow, "the end of the flow")
    # the process that adopts it may leave it as a zombie
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "the end of the subprocess")
