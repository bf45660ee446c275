"""What ``tests/conftest.py`` promises of every test, shown on tests that break the rules."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import WORKER_MODULES
from tests.support.harvest_command import ROOT, environment
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


@pytest.mark.parametrize(
    ("code", "left"),
    [
        (f"subprocess.Popen({SLEEPER})", "signal.pause()"),
        ("multiprocessing.get_context('fork').Process(target=signal.pause).start()", "pytest"),
        # its parent ends at once, so that it is nobody's child
        (f"subprocess.run(['sh', '-c', '\"$@\" &', 'sh', *{SLEEPER}])", "signal.pause()"),
        (
            "go = threading.Event(); request.config.add_cleanup(go.set); threading.Thread(target=go.wait).start()",
            "thread Thread-",
        ),
        ("global left; left = (tmp_path / 'left').open('w')", "open file"),
        ("global left; left = socket.create_server(('127.0.0.1', 0))", "listening port"),
    ],
    ids=["process", "fork", "orphan", "thread", "file", "port"],
)
def test_a_test_that_leaves_something_behind_fails(tmp_path: Path, code: str, left: str) -> None:
    told = run_pytest(
        tmp_path / "rules", f"def test_leak(tmp_path, request):\n    {code}\n", HARVEST_TESTS_SLOWNESS="0.05"
    )
    assert "this test left behind" in told
    assert left in told
    assert "1 passed" in told
    assert "1 error" in told


def test_a_test_that_leaves_nothing_passes(tmp_path: Path) -> None:
    told = run_pytest(
        tmp_path / "rules",
        f"def test_clean(tmp_path):\n    process = subprocess.Popen({SLEEPER})\n    patience.end(process)\n",
    )
    assert "1 passed" in told


def test_a_failed_test_shows_the_tails_of_its_logs(tmp_path: Path) -> None:
    code = "def test_log(tmp_path):\n    (tmp_path / 'run').mkdir()\n"
    code += "    (tmp_path / 'run' / 'replica.log').write_text('the engine said this')\n    assert False\n"
    told = run_pytest(tmp_path / "rules", code)
    assert "tails of logs" in told
    assert "the engine said this" in told


def test_a_wait_that_hangs_says_for_what_and_where_its_process_stands(tmp_path: Path) -> None:
    code = f"def test_hang():\n    process = subprocess.Popen({SLEEPER}, stderr=subprocess.PIPE, text=True)\n"
    code += "    patience.HANG_SECONDS = 1.0\n    patience.read_to_end(process, 'the shard is finished')\n"
    told = run_pytest(tmp_path / "rules", code)
    assert "for this: the shard is finished" in told
    assert "signal.pause()" in told
    assert "Current thread" in told


def test_a_process_that_ends_before_the_event_is_told_at_once(tmp_path: Path) -> None:
    code = """
def test_early():
    command = [sys.executable, "-c", "raise SystemExit('no such model')"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    patience.until(lambda: False, "the engine is ready", alive=[process])
"""
    told = run_pytest(tmp_path / "rules", code)
    assert "ended with 1 before this: the engine is ready" in told
    assert "no such model" in told


def test_a_slow_machine_is_given_more_time(tmp_path: Path) -> None:
    code = "def test_limit():\n    assert patience.slowness() == 3.5\n    assert patience.scaled(2) == 7\n"
    assert "1 passed" in run_pytest(tmp_path / "rules", code, HARVEST_TESTS_SLOWNESS="3.5")
    assert "HARVEST_TESTS_SLOWNESS" not in os.environ or float(os.environ["HARVEST_TESTS_SLOWNESS"]) >= 1


def test_every_module_with_prefect_workers_is_in_their_group() -> None:
    uses = re.compile(r"\b(running_worker|running_nodes?|node_api)\b")
    modules = {
        path.relative_to(ROOT).as_posix() for path in ROOT.glob("tests/**/test_*.py") if uses.search(path.read_text())
    }
    assert modules - {"tests/test_suite_rules.py"} == WORKER_MODULES
