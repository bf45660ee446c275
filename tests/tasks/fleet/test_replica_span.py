"""A profile whose replicas need several nodes is refused in one line where it cannot have them."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from flows.bench import Bench
from tasks.errors import ConfigError
from tests.support.harvest_command import harvest_here

pytest.importorskip("ray")

PROFILE = """
name = "wide"
[engine]
tensor_parallel_size = 2
nodes_per_replica = 2
"""


def written(folder: Path) -> Path:
    path = folder / "wide.toml"
    path.write_text(PROFILE)
    return path


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["run"], "nodes_per_replica of profile wide is 2, and this is for one node. Give harvest run --nodes 2, 4 or"),
        (["run", "--nodes=3", "--ray=auto"], "is 2, and nodes 3 is no multiple of it. Give harvest run --nodes 2, 4"),
        (["run", "--nodes=1", "--ray=auto"], "this is for one node"),
        (["run", "--nodes=2"], "without --ray this machine is the only node. Give the cluster of the 2 nodes: --ray"),
        (["run", "--nodes=2", "--ray=local"], "this machine is the only node"),
        (["tune"], "this is for one node"),
        (["preflight", "--warm"], "this is for one node"),
    ],
)
def test_too_few_nodes_are_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: Sequence[str],
    told: str,
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    given = ["--questions=2", f"--profile={written(tmp_path)}", "--model=demo", f"--runs-dir={tmp_path / 'runs'}"]
    assert harvest_here(*command, *given) == 2
    printed = capsys.readouterr()
    assert told in printed.err
    assert (printed.err.count("\n"), printed.out) == (1, "")
    assert not (tmp_path / "runs").exists()


def test_a_benchmark_measures_one_node(tmp_path: Path) -> None:
    given = {"profile": str(written(tmp_path)), "model": "demo", "questions": 2, "runs_dir": str(tmp_path / "runs")}
    with pytest.raises(ConfigError, match="nodes_per_replica of profile wide is 2, and this is for one node"):
        Bench(given, baseline_profile=None, log=lambda text: None)
