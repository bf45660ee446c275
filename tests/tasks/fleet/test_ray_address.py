"""What is no cluster is refused in one line, before anything is written."""

import subprocess
import sys
from pathlib import Path

import pytest

from flows.bench import Bench
from tasks.errors import ConfigError
from tests.support.harvest_command import environment, harvest_here

pytest.importorskip("ray")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--nodes=2", "--baseline=auto"], "baseline is auto, which is generated where the collection runs"),
        (["--ray=ray://head:10001"], "an address with ray:// is not taken), auto for the"),
        (["--ray=head"], "ray is 'head'. Give HOST:PORT"),
        (["--ray=127.0.0.1:1"], "no Ray cluster answers at 127.0.0.1:1: Connection refused. Start one with ray start"),
        (["--ray=head:99999"], "ray is 'head:99999'. Give HOST:PORT"),
        (["--ray="], "ray"),
        (["--nodes=0"], "nodes"),
        (["--nodes=-1"], "nodes"),
        (["--nodes=1000"], "nodes"),
        (["--nodes=2", "--profile=auto"], "profile auto is chosen by the GPUs of the node that collects"),
    ],
)
def test_nodes_that_cannot_be_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], told: str
) -> None:
    refused(tmp_path, capsys, options, told)


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("ray://head:10001", "RAY_ADDRESS is 'ray://head:10001'"),
        ("127.0.0.1:1", "no Ray cluster answers at 127.0.0.1:1"),
    ],
)
@pytest.mark.parametrize("options", [["--nodes=2"], ["--ray=auto"]])
def test_the_variable_of_ray_is_an_address_too(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    address: str,
    told: str,
    options: list[str],
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    refused(tmp_path, capsys, options, told)


def test_ray_is_asked_for_where_it_is_not_installed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # as where the import finds nothing
    monkeypatch.setitem(sys.modules, "ray", None)
    refused(tmp_path, capsys, ["--nodes=2"], "Install it: pip install 'rollout-harvest[ray]'")


WIDE = """
name = "wide"
[engine]
tensor_parallel_size = 2
nodes_per_replica = 2
"""


@pytest.mark.parametrize(
    ("command", "options", "told"),
    [
        (
            "run",
            [],
            "nodes_per_replica of profile wide is 2, and this is for one node. Give harvest run --nodes 2, 4 or",
        ),
        ("run", ["--nodes=3", "--ray=auto"], "is 2, and nodes 3 is no multiple of it. Give harvest run --nodes 2, 4"),
        ("run", ["--nodes=1", "--ray=auto"], "this is for one node"),
        ("run", ["--nodes=2"], "without --ray this machine is the only node. Give the cluster of the 2 nodes: --ray"),
        ("run", ["--nodes=2", "--ray=local"], "this machine is the only node"),
        ("tune", [], "this is for one node"),
        ("preflight", ["--warm"], "this is for one node"),
    ],
)
def test_too_few_nodes_for_a_replica_are_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    options: list[str],
    told: str,
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "wide.toml").write_text(WIDE)
    given = [f"--profile={tmp_path / 'wide.toml'}", "--model=demo", *options]
    refused(tmp_path, capsys, given, told, command=command)


def test_a_benchmark_measures_one_node(tmp_path: Path) -> None:
    (tmp_path / "wide.toml").write_text(WIDE)
    given = {
        "profile": f"{tmp_path / 'wide.toml'}",
        "model": "demo",
        "questions": 2,
        "runs_dir": f"{tmp_path / 'runs'}",
    }
    with pytest.raises(ConfigError, match="nodes_per_replica of profile wide is 2, and this is for one node"):
        Bench(given, baseline_profile=None, log=lambda text: None)


def refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], told: str, command: str = "run"
) -> None:
    profile = [] if any(each.startswith("--profile") for each in options) else ["--profile=cpu-demo"]
    given = ["--questions=2", f"--runs-dir={tmp_path / 'runs'}", *profile, *options]
    assert harvest_here(command, *given) == 2
    printed = capsys.readouterr()
    assert told in printed.err
    assert (printed.err.count("\n"), printed.out) == (1, "")
    assert not (tmp_path / "runs").exists()


def test_a_process_without_the_token_is_told_what_it_needs_and_starts_no_ray_later(tmp_path: Path) -> None:
    connect = """
from pathlib import Path
from tasks.errors import ConfigError
from tasks.fleet.cluster import Need, NodeGone
from tasks.fleet.node_worker import NodeWorker
from tasks.fleet.ray_cluster import RayPlacement, ray_cluster
try:
    with ray_cluster("127.0.0.1:1", Path("ray.log")):
        pass
except ConfigError as error:
    print(error)
try:
    RayPlacement(Need(gpus=0), (), NodeWorker)
except NodeGone as error:
    print(error)
"""
    # Ray reads them once, when it is imported
    without = environment(RAY_AUTH_MODE="token", HOME=str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        without.pop(name, None)
    told = subprocess.run([sys.executable, "-c", connect], cwd=tmp_path, env=without, capture_output=True, text=True)
    assert told.stdout.startswith(
        "the Ray cluster at 127.0.0.1:1 cannot be used: Token authentication is enabled but no"
    )
    assert "RAY_AUTH_MODE=token, and the token in ~/.ray/auth_token" in told.stdout
    assert "Ray has not been started yet" in told.stdout.splitlines()[1]
