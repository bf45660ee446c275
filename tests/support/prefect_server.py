"""Real Prefect servers: one that the tests of a process share, and fresh ones for tests that break theirs."""

import contextlib
import fcntl
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.failure_report import shared_logs
from tests.support.harvest_command import environment
from tests.support.left_behind import outlives_the_test
from tests.support.patience import HTTP_SECONDS, end, scaled, until
from tests.support.shared_process import session_folder

# many flows and workers use one SQLite file: without the first line the server stops for a minute now and then
PREFECT = """
from flows.server.embedded_server import collect_garbage_in_thread; collect_garbage_in_thread()
import runpy; runpy.run_module("prefect", run_name="__main__")
"""
CREATE_TABLES = """
import gc; gc.disable()
import asyncio
from prefect.server.database import provide_database_interface
from prefect.server.models.block_registration import run_block_auto_registration
async def create():
    database = provide_database_interface()
    await database.create_db()
    async with await database.session() as session:
        await run_block_auto_registration(session=session)
asyncio.run(create())
"""

NewHome = Callable[[Path], Path]
"""Makes the directory, and returns it."""


@pytest.fixture(scope="session")
def new_prefect_home(tmp_path_factory: pytest.TempPathFactory) -> NewHome:
    """Makes homes of Prefect whose database has its tables and the types of blocks: half of a first server's start."""
    first = session_folder(tmp_path_factory) / "prefect-tables"
    with first.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (first / "made").exists():
            variables = environment(PREFECT_HOME=str(first), PREFECT_API_URL="", DO_NOT_TRACK="1")
            subprocess.run([sys.executable, "-c", CREATE_TABLES], env=variables, check=True)
            (first / "made").touch()

    def make(home: Path) -> Path:
        home.mkdir(parents=True, exist_ok=True)
        shutil.copy(first / "prefect.db", home)
        return home

    return make


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory, new_prefect_home: NewHome) -> Iterator[str]:
    """The API URL of this test process's Prefect server.

    Each process has its own, as a start takes only 3 s of processor time, and tests that share one at the same moment
    meet: an automation that one installs fires for the flows of all, and what waits for SQLite's lock waits for 60 s.
    """
    home = new_prefect_home(tmp_path_factory.mktemp("prefect-home"))
    server, url = start_server(home, free_port())
    shared_logs.append(home / "server.log")
    outlives_the_test(server.pid)
    try:
        yield url
        _flush_logs_and_events()
    finally:
        end(server)


def _flush_logs_and_events() -> None:
    """Send the logs and events of flows that ran in this process: without a server, its exit would try for a minute."""
    if "prefect.logging.handlers" not in sys.modules:
        return
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogHandler

    APILogHandler().flush()
    EventsWorker.drain_all(timeout=scaled(HTTP_SECONDS))


@contextlib.contextmanager
def running_server(home: Path, port: int) -> Iterator[str]:
    """A Prefect server with its database in ``home``; its API URL. The same arguments again bring it back."""
    server, url = start_server(home, port)
    try:
        yield url
    finally:
        end(server)


def start_server(home: Path, port: int) -> tuple["subprocess.Popen[bytes]", str]:
    """Start a Prefect server with its database in ``home``; return it and its API URL as soon as it answers."""
    with (home / "server.log").open("ab") as log:
        server = subprocess.Popen(
            [sys.executable, "-c", PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            env=environment(
                PREFECT_HOME=str(home),
                PREFECT_API_URL="",
                PREFECT_UI_URL=f"http://127.0.0.1:{port}",
                PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS="3",
                PREFECT_SERVER_ANALYTICS_ENABLED="false",
                # the database has them
                PREFECT_SERVER_REGISTER_BLOCKS_ON_START="false",
                # Prefect remembers this outside of this home, by the path of the database, also of an earlier one
                PREFECT_SERVER_MEMOIZE_BLOCK_AUTO_REGISTRATION="false",
                # a server that waits for the next test looks less often at what no test waits for
                PREFECT_SERVER_SERVICES_PAUSE_EXPIRATIONS_ENABLED="false",
                PREFECT_SERVER_SERVICES_LATE_RUNS_LOOP_SECONDS="60",
                DO_NOT_TRACK="1",
            ),
            stdout=log,
            stderr=log,
        )
    url = f"http://127.0.0.1:{port}/api"
    try:
        until(lambda: _is_healthy(url), "Prefect's server answers", alive=[server], logs=[home / "server.log"])
    except BaseException:
        end(server)
        raise
    return server, url


def _is_healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=scaled(HTTP_SECONDS)):
            return True
    except OSError:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
