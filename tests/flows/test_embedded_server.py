"""Prefect's embedded server: there when it is needed, and gone with whoever needed it."""

import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest

from flows.embedded_server import EmbeddedServer
from tasks.errors import HarvestError
from tests.harvest_command import environment

pytestmark = pytest.mark.slow

RUN = """
import os, sys, time
from flows.embedded_server import EmbeddedServer
server = EmbeddedServer()
server.wait_until_ready()
print(os.environ["PREFECT_API_URL"], flush=True)
time.sleep(600)
"""


def test_it_dies_with_a_killed_flow_and_outlives_a_ctrl_c(tmp_path: Path) -> None:
    flow = subprocess.Popen(
        [sys.executable, "-c", RUN],
        env=environment(PREFECT_HOME=str(tmp_path), DO_NOT_TRACK="1"),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert flow.stdout is not None
        url = flow.stdout.readline().strip()
        (server,) = psutil.Process(flow.pid).children()
        assert os.getpgid(server.pid) != os.getpgid(flow.pid)
        with urllib.request.urlopen(f"{url}/health", timeout=30) as answer:
            assert answer.read() == b"true"
        os.kill(flow.pid, signal.SIGKILL)
        psutil.wait_procs([server], timeout=10)
        assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE
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
