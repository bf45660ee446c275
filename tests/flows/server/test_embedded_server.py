"""Prefect's embedded server: there when it is needed, and gone with whoever needed it."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from flows.server.embedded_server import EmbeddedServer
from tasks.errors import HarvestError
from tests.faults.runs import assert_nothing_left, num_saved_rollouts
from tests.support.fake_profile import write_fake_profile
from tests.support.harvest_command import environment

pytestmark = pytest.mark.slow

PATIENCE_SECONDS = 30.0

RUN = """
import os, time
from flows.server.embedded_server import EmbeddedServer
server = EmbeddedServer()
print(os.environ["PREFECT_API_URL"], flush=True)
time.sleep(600)
"""

# a connection that waits for SQLite's lock, and garbage that holds a cursor of it: to free that waits as well
GARBAGE = """
import contextlib, gc, sqlite3, sys, threading, time
from flows.server.embedded_server import collect_garbage_in_thread
collect_garbage_in_thread()
waits = sqlite3.connect(sys.argv[1], isolation_level=None, check_same_thread=False, timeout=0)
waits.execute("CREATE TABLE numbers (number)")
holds = sqlite3.connect(sys.argv[1], isolation_level=None)
holds.execute("BEGIN IMMEDIATE")
garbage = [waits.cursor()]
garbage.append(garbage)
with contextlib.suppress(sqlite3.OperationalError):
    garbage[0].execute("INSERT INTO numbers VALUES (1)")
del garbage
waits.execute("PRAGMA busy_timeout = 10000")
writer = threading.Thread(target=waits.execute, args=["INSERT INTO numbers VALUES (2)"])
writer.start()
time.sleep(0.5)
allocated = [[] for _ in range(100_000)]
holds.execute("COMMIT")
writer.join()
print(holds.execute("SELECT * FROM numbers").fetchall())
"""


def test_it_outlives_a_ctrl_c_until_the_flows_last_state_is_stored_and_then_nothing_is_left(tmp_path: Path) -> None:
    runs_dir, profile = tmp_path / "runs", write_fake_profile(tmp_path)
    run = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "run", "--profile", profile, "--questions", "32", "--runs-dir", runs_dir],
        env=environment(FAKE_STEP_SECONDS="0.2", HOME=str(tmp_path)),
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 240
        while not any(num_saved_rollouts(path.parent) for path in runs_dir.glob("*/config.json")):
            assert run.poll() is None, run.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        children = psutil.Process(run.pid).children(recursive=True)
        assert any("flows.server.embedded_server" in child.cmdline() for child in children)
        seen = {child.pid: child.create_time() for child in children}
        # a terminal sends it to the whole group
        os.killpg(run.pid, signal.SIGINT)
        _, stderr = run.communicate(timeout=PATIENCE_SECONDS)
    finally:
        run.kill()
        run.communicate()
    assert run.returncode == 130
    assert stderr.splitlines()[-1] == "harvest: interrupted; the same command resumes"
    assert_nothing_left(seen, within=PATIENCE_SECONDS)
    with contextlib.closing(sqlite3.connect(runs_dir / ".prefect" / "prefect.db")) as database:
        assert database.execute("SELECT state_type FROM flow_run").fetchall() == [("CRASHED",)]


def test_it_dies_with_a_killed_flow(tmp_path: Path) -> None:
    flow = subprocess.Popen(
        [sys.executable, "-c", RUN],
        env=environment(PREFECT_HOME=str(tmp_path), DO_NOT_TRACK="1"),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert flow.stdout is not None
        flow.stdout.readline()
        (server,) = psutil.Process(flow.pid).children()
        seen = {server.pid: server.create_time()}
        # past the first moments, in which it asks to die with the flow: amid the imports that take seconds
        while server.cpu_times().user < 1:
            time.sleep(0.05)
        os.kill(flow.pid, signal.SIGKILL)
        assert_nothing_left(seen)
    finally:
        flow.kill()
        flow.communicate()


def test_a_server_that_cannot_start_is_told_with_its_last_words(tmp_path: Path) -> None:
    variables = {
        **environment(),
        "PREFECT_HOME": str(tmp_path),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": "nonsense://nowhere",
    }
    server = EmbeddedServer(variables)
    try:
        with pytest.raises(HarvestError, match=r"embedded server ended with code \d+: .*\(log: .*server\.log\)"):
            server.wait_until_ready()
    finally:
        server.stop()


def test_garbage_of_a_statement_that_failed_does_not_keep_the_locks_holder_from_going_on(tmp_path: Path) -> None:
    # with Python's own collector the allocations wait until the writer has given up
    ended = subprocess.run(
        [sys.executable, "-c", GARBAGE, str(tmp_path / "x.db")], env=environment(), capture_output=True, text=True
    )
    assert (ended.stdout, ended.stderr) == ("[(2,)]\n", "")
