"""An outage of the Prefect server during generation does not disturb the run."""

from pathlib import Path

import pytest

from tests.faults.runs import (
    QUESTIONS,
    ROLLOUTS,
    SHARD_SIZE,
    Rows,
    only_run_dir,
    read_rows,
    start_harvest,
    write_profile,
)
from tests.support.fake_engines import open_gate
from tests.support.prefect_server import free_port, running_server
from tests.support.prefect_worker import Api

pytestmark = pytest.mark.slow

LOUD = {"PREFECT_LOGGING_ROOT_LEVEL": "DEBUG", "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "DEBUG"}
"""Makes the run tell of each request that the server did not answer."""


def test_a_run_completes_through_an_outage_of_the_server(tmp_path: Path, undisturbed_fake: Rows) -> None:
    """It ends a Prefect server, so it needs one of its own."""
    home, port, gate = tmp_path / "server", free_port(), tmp_path / "gate"
    home.mkdir()
    profile = write_profile(tmp_path, backend="tests.support.fake_engines:FakeEngine")
    with running_server(home, port) as url:
        variables = {"PREFECT_API_URL": url, "PREFECT_HOME": str(tmp_path / "client"), "FAKE_GATE": str(gate), **LOUD}
        run = start_harvest(tmp_path / "runs", profile, FAKE_HOLD_AFTER="1", **variables)
        run.wait_for_rollouts(1)
    root = only_run_dir(tmp_path / "runs")
    assert num_scored(root) == 0
    # without the server, shards are generated and scored, but not the last one
    open_gate(gate, until=ROLLOUTS - 1)
    run.wait_until(lambda: num_scored(root) == QUESTIONS // SHARD_SIZE - 1, "all shards but one are scored")
    tries = num_failures(run.log)
    run.wait_until(lambda: num_failures(run.log) >= tries + 3, "the run has tried three times more to reach the server")
    with running_server(home, port) as url:
        open_gate(gate)
        report = run.finish()
        assert (report["num_rollouts"], report["num_errors"]) == (ROLLOUTS, 0)
        assert report["generation"]["restarts"] == 0
        assert read_rows(root) == undisturbed_fake
        [flow_run] = Api(url=url).call("POST", "/flow_runs/filter", {})
        assert flow_run["state_type"] == "COMPLETED"
        artifacts = Api(url=url).artifacts(flow_run["id"])
        assert artifacts["harvest-progress"]["data"] == 100
        assert "harvest-report" in artifacts


def num_scored(root: Path) -> int:
    return len(list(root.glob("scores/*.parquet")))


def num_failures(log: Path) -> int:
    return log.read_text().count("could not report to Prefect")
