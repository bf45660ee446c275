"""Real Prefect servers: one that all tests of a session share, and fresh ones for tests that break theirs."""

import contextlib
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.harvest_command import environment
from tests.support.patience import HTTP_SECONDS, end, scaled, until
from tests.support.shared_process import shared_process

# many flows and workers use one SQLite file: without the first line the server stops for a minute now and then
PREFECT = """
from flows.server.embedded_server import collect_garbage_in_thread; collect_garbage_in_thread()
import runpy; runpy.run_module("prefect", run_name="__main__")
"""


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API URL of the session's Prefect server."""
    with shared_process(tmp_path_factory, "prefect", lambda home: start_server(home, free_port())) as (url, _):
        yield url
        _flush_logs_and_events()


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
                # Prefect remembers this outside of this home, by the path of the database, also of an earlier one
                PREFECT_SERVER_MEMOIZE_BLOCK_AUTO_REGISTRATION="false",
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
