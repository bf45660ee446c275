"""What ends with the process of ``harvest worker``."""

import subprocess
import sys
from pathlib import Path

import psutil

from tests.faults.runs import assert_nothing_left
from tests.support.harvest_command import environment
from tests.support.patience import until


def test_prefects_worker_dies_with_a_killed_harvest_worker(tmp_path: Path, prefect_api: str) -> None:
    with (tmp_path / "worker.log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "flows.commands.cli", "worker", "--name", "node", "--pool", "of-no-other-test"],
            env=environment(PREFECT_API_URL=prefect_api, HARVEST_HOME=str(tmp_path)),
            stdout=log,
            stderr=log,
        )
    try:
        children = until(lambda: psutil.Process(worker.pid).children(), "Prefect's worker", alive=[worker])
    finally:
        worker.kill()
        worker.wait()
    assert_nothing_left({child.pid: child.create_time() for child in children})
