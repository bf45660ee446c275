"""What ends with the process of ``harvest worker``."""

import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.faults.runs import assert_nothing_left
from tests.support.harvest_command import environment
from tests.support.patience import until


@pytest.mark.slow
def test_prefects_worker_dies_with_a_killed_harvest_worker(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as never_answers:
        url = f"http://127.0.0.1:{never_answers.getsockname()[1]}/api"
        with (tmp_path / "worker.log").open("wb") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "flows.commands.cli", "worker", "--name", "node"],
                env=environment(PREFECT_API_URL=url, PREFECT_HOME=str(tmp_path), HARVEST_HOME=str(tmp_path)),
                stdout=log,
                stderr=log,
            )
        try:
            children = until(lambda: psutil.Process(worker.pid).children(), "Prefect's worker", alive=[worker])
        finally:
            worker.kill()
            worker.wait()
        assert_nothing_left({child.pid: child.create_time() for child in children})
