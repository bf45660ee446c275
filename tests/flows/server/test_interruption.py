"""Signals that a process loses or turns into another error: the command still ends, and knows about them."""

import signal
import subprocess
import sys

import pytest

from flows.server.interruption import INTERRUPTED
from tests.support.harvest_command import environment
from tests.support.patience import HANG_SECONDS, SHORT_SECONDS, read_to_end, scaled

LOSES_INTERRUPTS = """
import signal, sys
from flows.server.interruption import Interruption
Interruption("the last words", grace_s=float(sys.argv[2]))
if sys.argv[1] == "handler":
    # as Prefect does while a flow runs
    signal.signal(signal.SIGTERM, lambda number, frame: None)
said = False
while True:
    try:
        if not said:
            print("ready", flush=True)
            said = True
        signal.pause()
    except KeyboardInterrupt:
        pass
"""
KEEPS_THE_INTERPRETER = """
import ctypes, signal, sys
from flows.server.interruption import Interruption
Interruption("the last words", limit_s=float(sys.argv[1]))
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: None)
mutex = ctypes.create_string_buffer(64)
lock = ctypes.PyDLL(None).pthread_mutex_lock
lock(mutex)
print("ready", flush=True)
lock(mutex)  # waits for itself, and no other thread runs
"""
BECOMES_ANOTHER_ERROR = """
import os, signal
from flows.server.interruption import Interruption
interruption = Interruption("the last words")
print(interruption.was_signalled)
try:
    os.kill(os.getpid(), signal.SIGTERM)
except KeyboardInterrupt:
    print(interruption.was_signalled)
"""

LOSES_ONE_IN_A_FLOW = """
import signal, sys
from flows.server.interruption import Interruption
Interruption("cut short", grace_s=float(sys.argv[1]))
from prefect import flow
from flows.reporting.flow_failures import explain_failures

@flow(retries=0)
def lose():
    with explain_failures():
        try:
            print("ready", flush=True)
            signal.pause()
        except BaseException:
            print("lost", flush=True)
        signal.pause()

try:
    lose()
except KeyboardInterrupt:
    print("ended in order", flush=True)
"""


@pytest.mark.parametrize(("number", "loser"), [(signal.SIGINT, "flow"), (signal.SIGTERM, "handler")])
def test_a_process_that_loses_an_interrupt_is_ended(number: int, loser: str) -> None:
    assert interrupted(number, LOSES_INTERRUPTS, loser) == (INTERRUPTED, "the last words\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_process_whose_threads_do_not_run_is_ended(number: int) -> None:
    assert interrupted(number, KEEPS_THE_INTERPRETER) == (-signal.SIGKILL, "the last words\n")


def interrupted(number: int, script: str, *arguments: str) -> tuple[int | None, str]:
    """Send a signal to a script that is ready; returns its exit code and what it wrote to standard error."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments, str(SHORT_SECONDS)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, told = read_to_end(process)
    return process.returncode, told


def test_a_command_knows_of_an_interrupt_that_became_another_error() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", BECOMES_ANOTHER_ERROR], env=environment(), capture_output=True, text=True, check=True
    )
    assert ended.stdout.split() == ["False", "True"]


@pytest.mark.slow
def test_a_flow_that_ignores_a_signal_gets_another(prefect_api: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", LOSES_ONE_IN_A_FLOW, str(scaled(HANG_SECONDS))],
        env=environment(PREFECT_API_URL=prefect_api),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    told, _ = read_to_end(process)
    assert told.splitlines() == ["lost", "ended in order"]
