"""What ends with the process of ``harvest worker``."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests.support.harvest_command import environment


def test_prefects_worker_dies_with_a_killed_harvest_worker(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as never_answers:
        url = f"http://127.0.0.1:{never_answers.getsockname()[1]}/api"
        worker = subprocess.Popen(
            [sys.executable, "-m", "flows.commands.cli", "worker", "--name", "node"],
            env=environment(PREFECT_API_URL=url, PREFECT_HOME=str(tmp_path), HARVEST_HOME=str(tmp_path)),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + 60
            while not (children := psutil.Process(worker.pid).children()):
                assert worker.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            worker.kill()
            worker.wait()
        _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []
