"""What ``tests/conftest.py`` promises of every test, shown on tests that break the rules."""

import os
import re
import subprocess
import sys
from pathlib import Path

import psutil

from tests.conftest import ENGINE_MODULES, WORKER_MODULES
from tests.support.harvest_command import ROOT, environment
from tests.support.left_behind import PROCESS_VARIABLE
from tests.support.patience import read_to_end

CONFTEST = "from tests.conftest import *  # noqa: F403\n"
SLEEPER = "[sys.executable, '-c', 'import signal; signal.pause()']"


def run_pytest(folder: Path, code: str, **variables: str) -> str:
    """Run a test module with this suite's conftest; returns what pytest prints."""
    folder.mkdir()
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_it.py").write_text(
        "import multiprocessing, os, signal, socket, subprocess, sys, threading\n"
        f"from tests.support import patience\n{code}"
    )
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
    process = subprocess.Popen(
        [*command, "--rootdir", str(folder), f"--basetemp={folder / 'tmp'}", str(folder / "test_it.py")],
        env={name: value for name, value in environment(**variables).items() if not name.startswith("PYTEST_")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return read_to_end(process)[0]


LEFT = {
    "process": (f"subprocess.Popen({SLEEPER})", "signal.pause()"),
    "fork": ("multiprocessing.get_context('fork').Process(target=signal.pause).start()", "pytest"),
    # its parent ends at once, so that it is nobody's child
    "orphan": (f"subprocess.run(['sh', '-c', '\"$@\" &', 'sh', *{SLEEPER}])", "signal.pause()"),
    "thread": (
        "go = threading.Event(); request.config.add_cleanup(go.set); threading.Thread(target=go.wait).start()",
        "thread Thread-",
    ),
    "file": ("global left_file; left_file = (tmp_path / 'left').open('w')", "open file"),
    "port": ("global left_port; left_port = socket.create_server(('127.0.0.1', 0))", "listening port"),
}
"""What a test leaves behind, by a name: the code that does it, and what the report says of it."""


def test_each_test_that_leaves_something_behind_fails_and_no_other(tmp_path: Path) -> None:
    code = "".join(f"def test_{name}(tmp_path, request):\n    {line}\n" for name, (line, _) in LEFT.items())
    code += f"def test_clean(tmp_path):\n    process = subprocess.Popen({SLEEPER})\n    patience.end(process)\n"
    code += "from tests.support import left_behind\nleft_behind.GRACE_SECONDS = patience.SHORT_SECONDS\n"
    told = run_pytest(tmp_path / "rules", code)
    assert f"{len(LEFT) + 1} passed" in told
    assert f"{len(LEFT)} errors" in told
    reports = dict(re.findall(r"ERROR at teardown of test_(\w+) _+\n(.*?)(?=\n_____|\n=====)", told, re.DOTALL))
    assert reports.keys() == LEFT.keys()
    for name, (_, left) in LEFT.items():
        assert "this test left behind" in reports[name]
        assert left in reports[name]


def test_a_process_of_the_same_test_in_another_session_is_not_taken_for_left_behind(tmp_path: Path) -> None:
    started = tmp_path / "pid"
    code = f"""
def test_clean():
    elsewhere = {{**os.environ, {PROCESS_VARIABLE!r}: "1"}}
    shell = '"$@" > /dev/null 2>&1 & echo $! > {started}'
    subprocess.run(["sh", "-c", shell, "sh", *{SLEEPER}], env=elsewhere)
"""
    code += "from tests.support import left_behind\nleft_behind.GRACE_SECONDS = patience.SHORT_SECONDS\n"
    told = run_pytest(tmp_path / "rules", code)
    other = psutil.Process(int(started.read_text()))
    other.kill()
    assert "1 passed" in told
    assert "error" not in told


def test_a_failed_test_shows_the_tails_of_its_logs_and_an_early_end_is_told_at_once(tmp_path: Path) -> None:
    code = """
def test_log(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "replica.log").write_text("the engine said this")
    assert False

def test_early():
    command = [sys.executable, "-c", "raise SystemExit('no such model')"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    patience.until(lambda: False, "the engine is ready", alive=[process])
"""
    told = run_pytest(tmp_path / "rules", code)
    assert "tails of logs" in told
    assert "the engine said this" in told
    assert "ended with 1 before this: the engine is ready" in told
    assert "no such model" in told


def test_the_environment_is_put_back_after_each_test(tmp_path: Path) -> None:
    code = """
import pytest

@pytest.mark.parametrize("number", [1, 2])
def test_change(number):
    assert "VLLM_LOGGING_LEVEL" not in os.environ
    os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
    del os.environ["KEPT"]
"""
    assert "2 passed" in run_pytest(tmp_path / "rules", code, KEPT="yes")


def test_a_wait_that_hangs_says_for_what_and_where_its_process_stands(tmp_path: Path) -> None:
    code = f"def test_hang():\n    process = subprocess.Popen({SLEEPER}, stderr=subprocess.PIPE, text=True)\n"
    code += "    patience.HANG_SECONDS = 1.0\n    patience.read_to_end(process, 'the shard is finished')\n"
    # the next fork is not told how this one ended
    code += """
def test_forks(tmp_path):
    import pytest
    from tests.support.forks import Forks
    forks = Forks("import tasks", os.environ)
    patience.HANG_SECONDS = 1.0
    with pytest.raises(patience.HangError) as hang:
        forks.run("import signal; print('it waits', flush=True); signal.pause()", ["--here"], os.environ, tmp_path)
    assert "the end of a fork with --here" in str(hang.value)
    assert "it waits" in str(hang.value)
    patience.HANG_SECONDS = 240.0
    ended = forks.run("print('another'); raise SystemExit(3)", [], os.environ, tmp_path)
    assert (ended.code, ended.out) == (3, "another\\n")
"""
    told = run_pytest(tmp_path / "rules", code)
    assert "1 failed, 1 passed" in told
    assert "for this: the shard is finished" in told
    assert "signal.pause()" in told
    assert "Current thread" in told


def test_a_slow_machine_is_given_more_time(tmp_path: Path) -> None:
    code = "def test_limit():\n    assert patience.slowness() >= 3.5\n    assert patience.scaled(2) >= 7\n"
    assert "1 passed" in run_pytest(tmp_path / "rules", code, HARVEST_TESTS_SLOWNESS="3.5")
    assert "HARVEST_TESTS_SLOWNESS" not in os.environ or float(os.environ["HARVEST_TESTS_SLOWNESS"]) >= 1


def test_every_module_with_prefect_workers_is_in_their_group() -> None:
    uses = re.compile(r"\brunning_worker\b")
    modules = {
        path.relative_to(ROOT).as_posix() for path in ROOT.glob("tests/**/test_*.py") if uses.search(path.read_text())
    }
    assert modules - {"tests/test_suite_rules.py"} == WORKER_MODULES


def test_every_module_that_shares_engines_or_a_run_is_in_their_group() -> None:
    uses = re.compile(r"\b(run_engine_script|run_loop_here|demo_run)\b")
    modules = {
        path.relative_to(ROOT).as_posix() for path in ROOT.glob("tests/**/test_*.py") if uses.search(path.read_text())
    }
    assert modules - {"tests/test_suite_rules.py"} == ENGINE_MODULES
