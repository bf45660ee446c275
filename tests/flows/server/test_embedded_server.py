"""Prefect's embedded server starts when a run needs it, and ends with that run."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from flows.server.embedded_server import EmbeddedServer
from tasks.errors import HarvestError
from tests.faults.runs import assert_nothing_left, num_saved_rollouts
from tests.support.fake_profile import write_fake_profile
from tests.support.harvest_command import environment
from tests.support.patience import HANG_SECONDS, read_to_end, scaled, until
from tests.support.prefect_server import NewHome

pytestmark = pytest.mark.slow

RUN = """
import os, signal
from flows.server.embedded_server import EmbeddedServer
server = EmbeddedServer()
print(os.environ["PREFECT_API_URL"], flush=True)
signal.pause()
"""

# a connection waits for SQLite's lock, and garbage holds a cursor of it: freeing the cursor waits for the lock too
GARBAGE = """
import contextlib, gc, sqlite3, sys, threading
from flows.server.embedded_server import collect_garbage_in_thread
from tests.support.patience import SHORT_SECONDS, pause
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
waits.execute(f"PRAGMA busy_timeout = {sys.argv[2]}")
writer = threading.Thread(target=waits.execute, args=["INSERT INTO numbers VALUES (2)"])
writer.start()
# nothing tells that the writer waits; if it does not yet, less is tested
pause(10 * SHORT_SECONDS)
allocated = [[] for _ in range(100_000)]
holds.execute("COMMIT")
writer.join()
print(holds.execute("SELECT * FROM numbers").fetchall())
"""


def test_the_server_outlives_a_ctrl_c_until_it_has_stored_the_last_state_and_then_ends(
    tmp_path: Path, new_prefect_home: NewHome
) -> None:
    runs_dir, profile = tmp_path / "runs", write_fake_profile(tmp_path)
    new_prefect_home(runs_dir / ".prefect")
    run = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "flows.commands.cli",
            "run",
            "--profile",
            profile,
            "--questions",
            "32",
            "--runs-dir",
            runs_dir,
        ],
        env=environment(FAKE_HOLD_AFTER="8", HOME=str(tmp_path)),
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        until(
            lambda: any(num_saved_rollouts(path.parent) for path in runs_dir.glob("*/config.json")),
            "a saved rollout",
            alive=[run],
        )
        children = psutil.Process(run.pid).children(recursive=True)
        assert any("flows.server.embedded_server" in child.cmdline() for child in children)
        seen = {child.pid: child.create_time() for child in children}
        # a terminal sends it to the whole group
        os.killpg(run.pid, signal.SIGINT)
        _, stderr = read_to_end(run)
    finally:
        run.kill()
        run.communicate()
    assert run.returncode == 130
    assert stderr.splitlines()[-1] == "harvest: interrupted; the same command resumes"
    assert_nothing_left(seen)
    with contextlib.closing(sqlite3.connect(runs_dir / ".prefect" / "prefect.db")) as database:
        assert database.execute("SELECT state_type FROM flow_run").fetchall() == [("CRASHED",)]


def test_the_server_dies_with_a_killed_flow(tmp_path: Path) -> None:
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
        # the server asks first to die with the flow; after a second it is busy with its imports
        until(lambda: server.cpu_times().user > 1, "the server's imports", alive=[flow])
        os.kill(flow.pid, signal.SIGKILL)
        assert_nothing_left(seen)
    finally:
        flow.kill()
        flow.communicate()


def test_a_server_that_cannot_start_says_why(tmp_path: Path, small_disk: Path) -> None:
    # Prefect's own log is as silent as in harvest run
    silent = {"PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL", "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"}
    damaged, long, file = tmp_path / "damaged", tmp_path.joinpath(*5 * ["x" * 100]), tmp_path / "file"
    for home in (damaged, long):
        home.mkdir(parents=True)
    (damaged / "prefect.db").write_bytes(b"no database" * 1000)
    file.touch()
    expected = {
        small_disk: "database or disk is full",
        damaged: "file is not a database",
        long: "unable to open database file; the path of its database has .* bytes, and SQLite takes 504",
        file: "Not a directory: .*/file/server.log",
    }
    for home, reason in expected.items():
        told = rf"^Prefect's embedded server cannot start: .*{reason}.* \(log: .*server\.log\)"
        with pytest.raises(HarvestError, match=told):
            start_and_stop({**environment(), **silent, "PREFECT_HOME": str(home)})


def start_and_stop(variables: dict[str, str]) -> None:
    server = EmbeddedServer(variables)
    try:
        server.wait_until_ready()
    finally:
        server.stop()


def test_freeing_the_garbage_of_a_failed_statement_does_not_block_the_holder_of_the_lock(tmp_path: Path) -> None:
    # with Python's own collector the allocations wait until the writer has given up
    ended = subprocess.run(
        [sys.executable, "-c", GARBAGE, str(tmp_path / "x.db"), str(int(1000 * scaled(HANG_SECONDS)))],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert (ended.stdout, ended.stderr) == ("[(2,)]\n", "")
