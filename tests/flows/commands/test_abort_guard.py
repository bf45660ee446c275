"""A command that reads runs ends with one line whatever a library does to its process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import psutil
import pytest

from flows.commands.cli import main
from tasks.last_read import last_read, note_read
from tests.support.harvest_command import environment
from tests.support.patience import await_exit, is_alive, read_to_end, until
from tests.support.synthetic import publish_shard, write_run

GUARDED = """
import os, signal, sys, time
from pathlib import Path
from flows.commands.abort_guard import run_guarded
from tasks.last_read import note_read

def command():
    note_read(Path("/runs/a\\x1b[31m/shard-00000.parquet"))
    {}
    return 3

sys.exit(run_guarded(command))
"""


def start(body: str) -> "subprocess.Popen[str]":
    variables = environment(PYTHONFAULTHANDLER="")  # which would print the stack
    return subprocess.Popen(
        [sys.executable, "-c", GUARDED.format(body)], env=variables, text=True, stderr=subprocess.PIPE
    )


@pytest.mark.parametrize("ended_by", ["SIGABRT", "SIGSEGV", "SIGBUS"])
def test_a_fault_becomes_one_line_that_names_the_file(ended_by: str) -> None:
    process = start(f"os.kill(os.getpid(), signal.{ended_by})")
    _, error = read_to_end(process)
    assert process.returncode == 1
    assert error.count("\n") == 1
    assert f"by {ended_by}; /runs/a␛[31m/shard-00000.parquet was opened last" in error


@pytest.mark.parametrize(
    ("body", "code"),
    [("pass", 3), ("sys.exit(7)", 7), ("os._exit(130)", 130), ("os.kill(os.getpid(), signal.SIGKILL)", -9)],
)
def test_any_other_end_is_passed_on(body: str, code: int) -> None:
    process = start(body)
    assert read_to_end(process)[1] == ""
    assert process.returncode == code


def test_an_exit_in_the_middle_is_no_success() -> None:
    process = start("os._exit(0)")
    assert "ended the process as if all were done" in read_to_end(process)[1]
    assert process.returncode == 1
    at_exit = start("import atexit; atexit.register(os._exit, 0)")
    read_to_end(at_exit)
    assert at_exit.returncode == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_of_other_processes_reach_the_command(number: signal.Signals, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    wait = f"Path({str(ready)!r}).touch()\n    while True: signal.pause()"
    process = start(f"signal.signal({number:d}, lambda *_: os._exit(5)); {wait}")
    until(ready.exists, "the command runs", alive=[process])
    process.send_signal(number)
    read_to_end(process)
    assert process.returncode == 5


def test_the_command_dies_with_the_process_that_guards_it(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    process = start(f"Path({str(ready)!r}).touch()\n    while True: signal.pause()")
    until(ready.exists, "the command runs", alive=[process])
    (command,) = psutil.Process(process.pid).children()
    process.kill()
    await_exit(process)
    assert process.stderr is not None
    process.stderr.close()
    until(lambda: not is_alive(command), "the end of the command")


def test_columns_of_another_kind_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", shards=1)
    publish_shard(pl.read_parquet(run.scores(0)).with_columns(reward=pl.lit("much")), run.scores(0))
    with pytest.raises(SystemExit) as ended:
        main(["arms", str(run.root)])
    assert ended.value.code == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "shard-00000.parquet is not of a run of Rollout Harvest: its column reward holds String" in error


def test_the_last_file_is_remembered_whatever_its_name() -> None:
    for name in ("a", "b" * 5000, os.fsdecode(b"\xff\xfe"), "c"):
        note_read(Path(name))
        assert last_read() == name[:4094]
