"""What ends with the process of ``harvest worker``."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.commands.deployments import check_pool
from tasks.errors import ConfigError
from tests.faults.runs import assert_nothing_left
from tests.support.harvest_command import environment
from tests.support.patience import until
from tests.support.prefect_worker import Api


def test_a_pool_that_the_server_does_not_have_is_refused(prefect_api: str) -> None:
    Api(url=prefect_api).call("POST", "/work_pools/", {"name": "pods", "type": "kubernetes"})
    for pool, why in (("nope", "no work pool of this name; it has "), ("pods", "a work pool of the type kubernetes")):
        with temporary_settings({PREFECT_API_URL: prefect_api}), pytest.raises(ConfigError, match=why):
            check_pool(pool)


def test_prefects_worker_dies_with_a_killed_harvest_worker(tmp_path: Path, prefect_api: str) -> None:
    Api(url=prefect_api).call("POST", "/work_pools/", {"name": "of-no-other-test", "type": "process"})
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
