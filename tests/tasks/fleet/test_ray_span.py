"""A replica on several nodes of a real Ray cluster, with a stub of NVML and an engine without a model."""

from pathlib import Path

import polars as pl
import pytest

from tasks.errors import ConfigError
from tasks.files import read_json
from tasks.generation.generation_log import read_sessions
from tasks.node.telemetry import load_telemetry
from tests.faults.runs import Rows, assert_nothing_left
from tests.support.fake_engines import open_gate
from tests.support.nvml_stub import build_stub, has_compiler, stub_environment
from tests.support.ray_nodes import REPLICA, RayNode, RayNodes
from tests.tasks.fleet.test_ray_nodes import PER_SHARD, SHARDS, Run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not has_compiler(), reason="gcc is not installed, so the stub cannot be built"),
]

NODES, GPUS = 2, 2


class SpanRun(Run):
    """A run whose replicas need two GPUs on each of two nodes."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, engine="tests.support.spanning_engine:SpanningEngine", span=(NODES, GPUS))


class Add:
    """Adds nodes with two of the stub's GPUs each."""

    def __init__(self, nodes: RayNodes, folder: Path, stub: Path) -> None:
        self._nodes, self._folder, self._stub = nodes, folder, stub
        self._added = 0

    def __call__(self, name: str, **variables: str) -> RayNode:
        first = GPUS * self._added
        self._added += 1
        gpus = ",".join(str(first + index) for index in range(GPUS))
        environment = stub_environment(self._stub)
        given = {key: value for key, value in environment.items() if key.startswith(("NVML", "LD_"))}
        return self._nodes.add(name, self._folder, gpus=GPUS, CUDA_VISIBLE_DEVICES=gpus, **(given | variables))


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_stub(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def add(ray_nodes: RayNodes, tmp_path: Path, stub: Path) -> Add:
    return Add(ray_nodes, tmp_path, stub)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """The rows of a run on this machine alone."""
    run = Run(tmp_path_factory.mktemp("alone"))
    run.generate_here()
    return run.rows


def test_every_node_of_a_replica_is_checked_all_processes_end_with_a_cancelled_run_and_the_rows_are_those_of_one(
    tmp_path: Path, ray_nodes: RayNodes, add: Add, undisturbed: Rows
) -> None:
    gate = tmp_path / "gate"
    held = {"FAKE_HOLD_AFTER": "0", "FAKE_GATE": str(gate)}
    add("one", **held)
    # its second GPU is the stub's GPU 3
    bad = add("bad", NVML_STUB_FAULT="gpu_lost")
    run = SpanRun(tmp_path)
    with pytest.raises(ConfigError, match=r"no node can generate: .*: node bad: preflight failed(?s:.*)GPU 3 answers"):
        run.generate(ray_nodes.address, NODES)
    assert not run.heard("was ready")
    ray_nodes.kill(bad)

    add("two", **held)
    seen: dict[int, float] = {}

    def cancel(run: Run) -> None:
        if run.heard("was ready"):
            seen.update(workers(ray_nodes))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.generate(ray_nodes.address, NODES, cancel)
    assert len(seen) >= NODES + GPUS * NODES + 1
    assert run.num_left == SHARDS
    assert_nothing_left(seen)

    run.said.clear()
    seen.clear()

    def let_go(run: Run) -> None:
        if not seen and run.heard("was ready"):
            seen.update(workers(ray_nodes))
            open_gate(gate)

    run.generate(ray_nodes.address, NODES, let_go)
    assert run.rows == undisturbed
    assert run.heard("begins: 1 of 1 groups of 2 nodes")
    [version] = pl.read_parquet(run.plan.paths.root / "rollouts" / "*.parquet")["engine_version"].unique()
    parts, _, own = version.removeprefix("fake on ").partition(", seen ")
    assert sorted(parts.split()) == ["one:0", "one:1", "two:4", "two:5"]
    assert own in ("0,1", "4,5")
    # every node was checked, and the run counts the GPUs of both
    checks = [check["name"] for check in read_json(run.plan.paths.preflight)["checks"]]
    assert [sum(f"{name}: GPU count" in check for check in checks) for name in ("one", "two")] == [1, 1]
    session = read_sessions(run.plan.paths.state / "generation.json")[-1]
    assert (session.gpus, session.replicas) == (4, 1)
    sampled = load_telemetry(run.plan.paths.telemetry)
    assert sampled.filter(pl.col("source") == "gpu")["index"].n_unique() == 4
    assert len(seen) >= NODES + GPUS * NODES + 1
    assert_nothing_left(seen)


def test_the_loss_of_any_node_is_that_of_the_replica_and_another_group_goes_on(
    tmp_path: Path, ray_nodes: RayNodes, add: Add, undisturbed: Rows
) -> None:
    held = {"FAKE_HOLD_AFTER": str(2 * PER_SHARD), "FAKE_GATE": str(tmp_path / "gate")}
    nodes = {name: add(name, **held) for name in ("one", "two")}
    run = SpanRun(tmp_path)
    seen: dict[int, float] = {}

    def lose(run: Run) -> None:
        if "two" not in nodes or not run.heard("came from"):
            return
        seen.update(workers(ray_nodes))
        # the one without the engine, so that the engine lives and waits
        lost = next(node for node in nodes.values() if not node.has_replica)
        ray_nodes.kill(lost)
        nodes.clear()
        open_gate(tmp_path / "gate")
        add("three")

    run.generate(ray_nodes.address, NODES, lose)
    assert run.heard("is lost: its node")
    assert run.heard("Other nodes get its shards")
    assert run.rows == undisturbed
    assert_nothing_left(seen)


def workers(nodes: RayNodes) -> dict[int, float]:
    """Start times, by pid, of the nodes' workers, the replica and the engine's parts."""
    return {
        process.pid: process.create_time()
        for node in nodes.nodes
        for process in node.below("ray::SpanWorker", "ray::Part", REPLICA)
    }
