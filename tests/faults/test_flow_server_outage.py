"""An outage of the Prefect server during generation does not disturb the run."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.fake_profile import write_fake_profile
from tests.support.harvest_command import environment
from tests.support.prefect_server import free_port, running_server
from tests.support.prefect_worker import Api

pytestmark = pytest.mark.slow

NUM_QUESTIONS = 160
OUTAGE_SECONDS = 35.0
"""Before the server is started again, which takes it 5 s and more."""


def test_a_run_completes_through_an_outage_of_the_server(tmp_path: Path) -> None:
    home, port = tmp_path / "server", free_port()
    home.mkdir()
    with running_server(home, port) as url:
        variables = {"PREFECT_API_URL": url, "FAKE_STEP_SECONDS": "0.2", "PREFECT_HOME": str(tmp_path / "client")}
        options = ["--profile", str(write_fake_profile(tmp_path)), "--questions", str(NUM_QUESTIONS), "--json"]
        run = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "flows.commands.cli",
                "run",
                *options,
                "--max-tokens",
                "16",
                "--runs-dir",
                str(tmp_path),
            ],
            env=environment(**variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        _wait_for(tmp_path, "*/state/journal/*", run)
    left = time.monotonic()
    while time.monotonic() < left + OUTAGE_SECONDS:
        time.sleep(0.5)
    meanwhile = len(list(tmp_path.glob("*/rollouts/*.parquet")))
    assert run.poll() is None, "the run must still be going when the server comes back, or this shows nothing"
    with running_server(home, port) as url:
        out, err = run.communicate(timeout=300)
        assert run.returncode == 0, err
        report = json.loads(out)
        assert (report["num_rollouts"], report["num_errors"]) == (8 * NUM_QUESTIONS, 0)
        assert report["generation"]["restarts"] == 0
        assert meanwhile > 0, "shards were finished without the server"
        [flow_run] = Api(url=url).call("POST", "/flow_runs/filter", {})
        assert flow_run["state_type"] == "COMPLETED"
        artifacts = Api(url=url).artifacts(flow_run["id"])
        assert artifacts["harvest-progress"]["data"] == 100
        assert "harvest-report" in artifacts


def _wait_for(directory: Path, pattern: str, run: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 240
    while not list(directory.glob(pattern)):
        assert run.poll() is None, run.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.2)
