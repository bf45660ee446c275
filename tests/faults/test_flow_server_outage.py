"""Whatever happens to the Prefect server during generation, the run ends by what became of its data."""

import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from tests.faults.runs import (
    QUESTIONS,
    ROLLOUTS,
    SHARD_SIZE,
    Rows,
    RunProcess,
    assert_nothing_left,
    command,
    only_run_dir,
    options,
    read_rows,
    start_harvest,
    states,
    write_profile,
)
from tests.support.fake_engines import open_gate
from tests.support.fault_proxy import Fault, fault_proxy
from tests.support.harvest_command import harvest
from tests.support.leaks import find_leaks
from tests.support.patience import HTTP_SECONDS, scaled
from tests.support.prefect_server import NewHome, free_port
from tests.support.prefect_worker import Api

pytestmark = pytest.mark.slow


def test_a_run_completes_through_an_outage_of_the_server(
    tmp_path: Path, undisturbed_fake: Rows, prefect_api: str
) -> None:
    """Its server answers no more for a while. One that ends, and is started again: the next test."""
    with fault_proxy(prefect_api) as proxy:
        run, gate = start_and_hold(tmp_path, "--name=outage", PREFECT_API_URL=f"{proxy.endpoint}/api")
        proxy.faults.append(Fault(kind="hang", seconds=0, times=10**9))
        root = only_run_dir(tmp_path / "runs")
        assert num_scored(root) == 0
        # without the server, shards are generated and scored, but not the last one
        open_gate(gate, until=ROLLOUTS - 1)
        run.wait_until(lambda: num_scored(root) == QUESTIONS // SHARD_SIZE - 1, "all shards but one are scored")
        tries = len(proxy.requests)
        run.wait_until(
            lambda: len(proxy.requests) >= tries + 3, "the run has tried three times more to reach the server"
        )
        proxy.faults.clear()
        open_gate(gate)
        report = run.finish()
    assert (report["num_rollouts"], report["num_errors"]) == (ROLLOUTS, 0)
    assert report["generation"]["restarts"] == 0
    assert read_rows(root) == undisturbed_fake
    api = Api(url=prefect_api)
    [flow_run] = api.flow_runs_of(report["run_id"])
    assert flow_run["state_type"] == "COMPLETED"
    artifacts = api.artifacts(flow_run["id"])
    assert artifacts["harvest-progress"]["data"] == 100
    assert "harvest-report" in artifacts


def test_a_killed_embedded_server_is_started_again_serves_its_owner_alone_and_is_given_up_where_it_cannot_start(
    tmp_path: Path, undisturbed_fake: Rows, new_prefect_home: NewHome
) -> None:
    """A run to whose end there is a server that was started again: tests/faults/test_random_kills.py."""
    home = new_prefect_home(tmp_path / "runs" / ".prefect")
    run, gate = start_and_hold(tmp_path)
    killed = embedded_server(run)
    assert killed is not None
    secret = killed.environ()["PREFECT_SERVER_API_AUTH_STRING"]
    killed.kill()
    starting = run.wait_until(lambda: embedded_server(run, other_than=killed), "another server")
    starting.kill()
    third = run.wait_until(lambda: embedded_server(run, other_than=starting), "a third server")
    [port] = {each.laddr.port for each in psutil.Process(run.process.pid).net_connections() if each.status == "LISTEN"}
    # it waits until the server has started
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/api/flow_runs/count", data=b"{}", timeout=scaled(HTTP_SECONDS))
    words = [word for process in run.descendants() for word in command(process)]
    assert {oct(path.stat().st_mode)[-3:] for path in home.iterdir()} == {"600"}
    assert oct(home.stat().st_mode)[-3:] == "700"
    # another one cannot start
    moved = home.rename(tmp_path / "moved")
    home.touch()
    third.kill()
    run.wait_until(lambda: len(warnings(run)) == 4, "the run gives its server up")
    open_gate(gate)
    assert run.finish()["num_errors"] == 0
    assert read_rows(only_run_dir(tmp_path / "runs")) == undisturbed_fake
    *again, lost = warnings(run)
    assert again == 3 * [
        "warning: Prefect's embedded server was killed, as the kernel does when memory runs out; it is started again"
    ]
    assert "server cannot start: Not a directory" in lost
    assert lost.endswith("The run goes on without a server, which does not get to know its end")
    assert states(moved) == ["RUNNING"]
    assert find_leaks([secret], [tmp_path], words) == []
    assert_nothing_left(run.seen)


def test_a_run_whose_server_stays_away_ends_by_its_data(tmp_path: Path, prefect_api: str) -> None:
    with fault_proxy(prefect_api) as proxy:
        url = f"{proxy.endpoint}/api"
        # the run waits two minutes for its server, times this
        run, gate = start_and_hold(tmp_path, PREFECT_API_URL=url, HARVEST_TIME_LIMIT_FACTOR="0.02")
        proxy.faults.append(Fault(kind="hang", seconds=0, times=10**9))
        open_gate(gate)
        assert run.finish()["num_rollouts"] == ROLLOUTS
    [lost] = warnings(run)
    assert lost.startswith(f"warning: the Prefect server {url} has not answered for 2 s. ")
    assert_nothing_left(run.seen)


def test_a_run_whose_end_the_server_refuses_ends_by_its_data(tmp_path: Path, prefect_api: str) -> None:
    profile = write_profile(tmp_path, backend="tests.support.fake_engines:FakeEngine")
    with fault_proxy(prefect_api) as proxy:
        # it may begin
        proxy.faults.append(Fault(kind="500", method="POST", path="/set_state$", skip=1, times=100))
        url = f"{proxy.endpoint}/api"
        run = start_harvest(tmp_path / "runs", profile, PREFECT_API_URL=url, HOME=str(tmp_path))
        assert run.finish()["num_rollouts"] == ROLLOUTS
    assert run.process.returncode == 0
    [unknown] = warnings(run)
    assert unknown.startswith(f"warning: the Prefect server {url} does not know how the run ended: ")


@pytest.mark.parametrize("name", ["run", "automations"])
def test_a_server_that_does_not_answer_when_a_command_starts_is_named(tmp_path: Path, name: str) -> None:
    url = f"http://127.0.0.1:{free_port()}/api"
    given = options(write_profile(tmp_path, backend="tests.support.fake_engines:FakeEngine")) if name == "run" else []
    outcome = harvest(name, *given, cwd=tmp_path, PREFECT_API_URL=url)
    assert outcome.code == 1
    [line] = outcome.stderr.splitlines()
    assert line.startswith("harvest: error: ")
    assert f"server {url}" in line
    assert "Check that it runs, or name another with PREFECT_API_URL" in line
    assert list(tmp_path.rglob("config.json")) == []


def start_and_hold(tmp_path: Path, *more: str, **variables: str) -> tuple[RunProcess, Path]:
    """Start a run whose engine holds after the first rollout; returns it and the engine's gate."""
    gate = tmp_path / "gate"
    profile = write_profile(tmp_path, backend="tests.support.fake_engines:FakeEngine")
    variables |= {"FAKE_HOLD_AFTER": "1", "FAKE_GATE": str(gate), "HOME": str(tmp_path)}
    run = start_harvest(tmp_path / "runs", profile, more=more, **variables)
    run.wait_for_rollouts(1)
    return run, gate


def embedded_server(run: RunProcess, *, other_than: psutil.Process | None = None) -> psutil.Process | None:
    servers = [process for process in run.descendants() if "flows.server.embedded_server" in command(process)]
    return next((process for process in servers if process != other_than), None)


def warnings(run: RunProcess) -> list[str]:
    """The warnings of a run. It may print nothing else than these, what it will take, and progress."""
    lines = run.log.read_text().splitlines()
    assert all(line.startswith(("warning: ", "started: ", "tokens: ")) or "rollouts" in line for line in lines), lines
    return [line for line in lines if line.startswith("warning: ")]


def num_scored(root: Path) -> int:
    return len(list(root.glob("scores/*.parquet")))
