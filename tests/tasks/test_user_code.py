"""Whatever code of the user raises is one error; what a signal raises is not the code's."""

import os
import posix
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tasks.errors import ConfigError, NotEquivalent
from tasks.user_code import user_code
from tests.support.harvest_command import environment


class Unreadable(Exception):
    def __str__(self) -> str:
        raise SystemExit("no text")


def endless() -> None:
    endless()


def fail(error: BaseException) -> None:
    raise error


def fail_in(directory: Path) -> None:
    os.chdir(directory)
    raise ValueError


RAISED = [
    pytest.param(lambda: fail(ValueError("bad\nvalue")), "ValueError: bad⏎value", id="an exception"),
    pytest.param(lambda: fail(SystemExit()), "SystemExit", id="exit without a code"),
    pytest.param(lambda: fail(SystemExit(0)), "SystemExit: 0", id="exit as if it were done"),
    pytest.param(lambda: fail(KeyboardInterrupt()), "KeyboardInterrupt", id="its own interrupt"),
    pytest.param(lambda: fail(GeneratorExit()), "GeneratorExit", id="the end of a generator"),
    pytest.param(lambda: fail(StopIteration(1)), "StopIteration: 1", id="the end of an iterator"),
    pytest.param(lambda: fail(NotEquivalent("not ours")), "NotEquivalent: not ours", id="an error of ours"),
    pytest.param(
        lambda: fail(Unreadable()), "Unreadable: its text cannot be read, which raised SystemExit", id="no text"
    ),
    pytest.param(lambda: os._exit(0), "SystemExit: os._exit(0)", id="the end of the process"),
    pytest.param(lambda: posix._exit(0), "SystemExit: os._exit(0)", id="the end of the process, by its other name"),
    pytest.param(endless, "RecursionError: maximum recursion depth exceeded", id="recursion"),
]


@pytest.mark.parametrize(("call", "told"), RAISED)
@pytest.mark.parametrize("in_thread", [False, True], ids=["main thread", "another thread"])
def test_whatever_is_raised_is_named(call: object, told: str, in_thread: bool) -> None:
    assert callable(call)
    raised: list[ConfigError] = []

    def run() -> None:
        with pytest.raises(ConfigError) as info, user_code(lambda what: f"the scorer failed ({what}"):
            call()
        raised.append(info.value)

    if in_thread:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    else:
        run()
    assert str(raised[0]).startswith(f"the scorer failed ({told}")


def test_an_interrupt_of_a_signal_passes_through() -> None:
    # a process that a shell started in the background ignores it
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), user_code(lambda what: what):
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_another_handler_raises_passes_through() -> None:
    def end(number: int, frame: object) -> None:
        raise TimeoutError("the time is up")

    before = signal.signal(signal.SIGALRM, end)
    try:
        with pytest.raises(TimeoutError, match="the time is up"), user_code(lambda what: what):
            signal.raise_signal(signal.SIGALRM)
        with user_code(lambda what: what):
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGALRM) is not signal.SIG_IGN, "the code's own handler does not stay"
    finally:
        signal.signal(signal.SIGALRM, before)


def test_processes_of_the_code_and_of_others_end_as_before() -> None:
    code = """
import os, threading
from tasks.user_code import user_code
with user_code(str):
    if (child := os.fork()) == 0:
        os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    thread = threading.Thread(target=os._exit, args=(4,))
    thread.start()
    thread.join()
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 4


def test_a_process_that_the_code_forks_ends_with_it() -> None:
    script = (
        "import os\nfrom tasks.user_code import user_code\n"
        "for call in (os.fork, lambda: os.fork() or 1 / 0):\n"
        "    with user_code(str):\n        call()\n"
        "os.write(1, b'goes on ')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, text=True, check=True
    )
    assert (ended.stdout, ended.stderr) == ("goes on ", "")


def test_the_working_directory_is_what_it_was(tmp_path: Path) -> None:
    before = Path.cwd()
    with user_code(str):
        os.chdir(tmp_path)
    assert Path.cwd() == before
    with pytest.raises(ConfigError), user_code(str):
        fail_in(tmp_path)
    assert Path.cwd() == before
