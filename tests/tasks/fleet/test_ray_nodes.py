"""Nodes on a real Ray cluster of several raylets, with real replica pools and a fake engine in them.

The last tests are of replicas on several nodes, with a stub of NVML and an engine without a model.
"""

import contextlib
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import psutil
import pytest

from profiles.load import DEMO_MODEL
from tasks.errors import ConfigError, NodesLost
from tasks.files import read_json
from tasks.generation.generation_log import read_sessions
from tasks.generation.rung_state import RungState
from tasks.node.telemetry import load_telemetry
from tasks.time_limits import FACTOR_VARIABLE
from tests.faults.runs import Rows, assert_nothing_left
from tests.support.fake_engines import open_gate
from tests.support.node_runs import PER_SHARD, SHARDS, SPAN_GPUS, SPAN_NODES, Run, SpanRun, StubNodes, workers_on
from tests.support.nvml_stub import build_stub, has_compiler
from tests.support.patience import is_alive
from tests.support.ray_nodes import REPLICA, RayNodes

pytestmark = pytest.mark.slow
needs_stub = pytest.mark.skipif(not has_compiler(), reason="gcc is not installed, so the stub cannot be built")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """The rows of a run on this machine alone."""
    run = Run(tmp_path_factory.mktemp("alone"))
    run.generate_here()
    return run.rows


SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "key-of-the-flow",
    "HF_TOKEN": "token-of-the-flow",
    "WANDB_API_KEY": "other-key-of-the-flow",
}


def test_two_nodes_make_the_rows_of_one_each_at_its_rung_and_one_with_other_weights_is_refused(
    tmp_path: Path, ray_nodes: RayNodes, undisturbed: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    # what the same path has on two machines
    for home in ("same", "other"):
        shutil.copytree(DEMO_MODEL, tmp_path / home / "model")
    [weights] = (tmp_path / "other" / "model").glob("*.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    gate = tmp_path / "gate"
    # each makes a shard before it may go on, so that both make some
    held = {"FAKE_HOLD_AFTER": str(2 * PER_SHARD), "FAKE_GATE": str(gate)}
    for name, home, memory in (("small", "same", PER_SHARD - 2), ("large", "same", 1000), ("wrong", "other", 1000)):
        ray_nodes.add(name, tmp_path, HOME=str(tmp_path / home), MEMORY_LIMIT=str(memory), **held)
    for name, value in {"HOME": str(tmp_path / "same"), **SECRETS}.items():
        monkeypatch.setenv(name, value)
    run = Run(tmp_path, engine="tests.support.fake_engines:CrowdedEngine", model="~/model")
    found: list[bytes] = []

    def let_go(run: Run) -> None:
        if run.heard("came from small") and run.heard("came from large") and not gate.exists():
            found.extend(seen_by_ray(ray_nodes))
            open_gate(gate)

    run.generate(ray_nodes.address, 3, let_go)
    assert run.rows == undisturbed
    [session] = read_sessions(run.plan.paths.state / "generation.json")
    assert sorted((node["node"], node["ended"], node["telemetry"]) for node in session.nodes) == [
        ("large", "well", True),
        ("small", "well", True),
    ]
    # all but those whose report died with the engine that ran out of memory
    assert (SHARDS - 1) * PER_SHARD < session.rollouts <= SHARDS * PER_SHARD
    assert sorted(index for node in session.nodes for index in node["shards"]) == list(range(SHARDS))
    assert {change.node for change in RungState(run.plan.paths.state / "oom_ladder.json").changes} == {"small"}
    [told] = [said for said in run.said if said.startswith("wrong does not work for this run")]
    assert re.search(r"model is \w+ there and \w+ here", told)
    logs = run.plan.paths.logs
    # the engine of the other one has nothing to say
    assert [path.parent.name for path in logs.glob("*/replica-0-001.log")] == ["node-small"]
    assert run.plan.paths.preflight.is_file()
    # of what a node kept, the rung alone is for later runs
    kept = {str(path.relative_to(tmp_path)) for node in ray_nodes.nodes for path in node.home.glob("nodes/*/*")}
    assert kept == {"small/nodes/0/.memory"}
    # nodes have credentials of their own
    assert [data for data in found for value in SECRETS.values() if value.encode() in data] == []


def seen_by_ray(ray_nodes: RayNodes) -> Iterator[bytes]:
    """What a cluster has of the flow: environments of its processes, what ``ray list`` reads, the session's files."""
    from ray._private import state

    processes = [each for node in ray_nodes.nodes for each in node.below("ray::NodeWorker", REPLICA)]
    environments = [Path(f"/proc/{process.pid}/environ") for process in processes]
    session = Path(ray_nodes.cluster.head_node.get_session_dir_path())
    for path in (*environments, *filter(Path.is_file, session.rglob("*"))):
        # what ends meanwhile has none
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            yield path.read_bytes()
    # each with all its details: its runtime environment, and what made it
    tables = state.state._connect_and_get_accessor()
    actors = tables.get_actor_table(None, None)
    assert b"NodeWorker" in b"".join(actors)
    yield from (*actors, *tables.get_job_table(), *tables.get_worker_table(), *tables.get_placement_group_table())
    yield from tables.get_task_events()


@pytest.mark.soak
def test_two_nodes_with_real_engines_make_the_tokens_of_one(tmp_path: Path, ray_nodes: RayNodes) -> None:
    alone, run = Run(tmp_path / "alone", engine="vllm"), Run(tmp_path / "nodes", engine="vllm")
    alone.generate_here()
    for name in ("one", "two"):
        ray_nodes.add(name, tmp_path)
    run.generate(ray_nodes.address, 2)
    assert run.rows == alone.rows
    assert {path.parent.name for path in run.plan.paths.logs.glob("*/replica-0-001.log")} == {"node-one", "node-two"}


KILLS = [pytest.param(3, id="three"), pytest.param(10, id="ten", marks=pytest.mark.soak)]


@pytest.mark.parametrize("kills", KILLS)
def test_kills_at_random_moments_lose_double_and_change_nothing(
    tmp_path: Path, ray_nodes: RayNodes, undisturbed: Rows, kills: int
) -> None:
    gate = tmp_path / "gate"
    # each replica stands still before the run can end, until all kills are done
    slow = {"FAKE_STEP_SECONDS": "0.02", "FAKE_HOLD_AFTER": str(PER_SHARD // 3), "FAKE_GATE": str(gate)}
    for name in ("one", "two"):
        ray_nodes.add(name, tmp_path, **slow)
    run, chance = Run(tmp_path), random.Random()
    left = [("actor", "replica", "raylet")[number % 3] for number in range(kills)]
    chance.shuffle(left)
    waits = iter([chance.randrange(30) for _ in left])
    due = next(waits)

    def kill(run: Run) -> None:
        nonlocal due
        if due or not left:
            due -= bool(left) and run.heard("was ready")
            return
        process_of = {"actor": "ray::NodeWorker", "replica": REPLICA, "raylet": REPLICA}[left[-1]]
        # what was killed a moment ago may still be seen, or be gone before it is killed again
        victims = [(node, process) for node in ray_nodes.nodes for process in node.below(process_of)]
        if not victims:
            return
        node, process = chance.choice(victims)
        with contextlib.suppress(psutil.NoSuchProcess):
            if left[-1] == "raylet":
                ray_nodes.kill(node)
                ray_nodes.add(f"{node.name}+", tmp_path, **slow)
            else:
                process.kill()
            left.pop()
            due = next(waits, 0)
        if not left:
            open_gate(gate)

    run.generate(ray_nodes.address, 2, kill)
    assert left == []
    assert run.rows == undisturbed
    sessions = read_sessions(run.plan.paths.state / "generation.json")
    made = [index for session in sessions for node in session.nodes for index in node["shards"]]
    assert sorted(made) == list(range(SHARDS)), run.said


def test_the_only_node_stands_still_another_goes_on_and_when_all_are_lost_the_run_fails_and_resumes(
    tmp_path: Path, ray_nodes: RayNodes, undisturbed: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = tmp_path / "gate"
    stopped = ray_nodes.add("stopped", tmp_path, FAKE_HOLD_AFTER=str(PER_SHARD // 2), FAKE_GATE=str(gate))
    run = Run(tmp_path)
    processes: list[psutil.Process] = []

    def disturb(run: Run) -> None:
        if not processes and run.heard("replica 0 was ready"):
            # as a machine that stands still, but for the replica, which makes what it has
            processes[:] = [stopped.raylet, stopped.actor]
            for process in processes:
                process.suspend()
            open_gate(gate)
        elif len(ray_nodes.nodes) == 1 and run.heard(
            "waiting for 1 more of 1 nodes, each with one processor", after="stopped is lost"
        ):
            ray_nodes.add("other", tmp_path, FAKE_HOLD_AFTER=str(2 * PER_SHARD))
        elif ray_nodes.nodes and run.heard("came from other"):
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()
            if not is_alive(processes[1]):
                ray_nodes.clear()
                # until now the run would have waited as long as it takes
                monkeypatch.setenv(FACTOR_VARIABLE, "1e-6")

    with pytest.raises(NodesLost, match=r"no node .* free. Lost before: other: .* also on one machine"):
        run.generate(ray_nodes.address, 1, disturb, silent_s=5)
    monkeypatch.undo()
    assert run.heard("stopped is lost: it does not answer")
    assert 0 < run.num_left < SHARDS
    # without Ray
    run.generate_here()
    assert run.rows == undisturbed


@pytest.fixture
def stub_nodes(ray_nodes: RayNodes, tmp_path: Path) -> StubNodes:
    return StubNodes(ray_nodes, tmp_path, build_stub(tmp_path))


@needs_stub
def test_every_node_of_a_replica_is_checked_all_processes_end_with_a_cancelled_run_and_the_rows_are_those_of_one(
    tmp_path: Path, ray_nodes: RayNodes, stub_nodes: StubNodes, undisturbed: Rows
) -> None:
    gate = tmp_path / "gate"
    held = {"FAKE_HOLD_AFTER": "0", "FAKE_GATE": str(gate)}
    stub_nodes.add("one", **held)
    # its second GPU is the stub's GPU 3
    bad = stub_nodes.add("bad", NVML_STUB_FAULT="gpu_lost")
    run = SpanRun(tmp_path)
    with pytest.raises(ConfigError, match=r"no node can generate: .*: node bad: preflight failed(?s:.*)GPU 3 answers"):
        run.generate(ray_nodes.address, SPAN_NODES)
    assert not run.heard("was ready")
    ray_nodes.kill(bad)

    stub_nodes.add("two", **held)
    seen: dict[int, float] = {}

    def cancel(run: Run) -> None:
        if run.heard("was ready"):
            seen.update(workers_on(ray_nodes))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.generate(ray_nodes.address, SPAN_NODES, cancel)
    assert len(seen) >= SPAN_NODES + SPAN_GPUS * SPAN_NODES + 1
    assert run.num_left == SHARDS
    assert_nothing_left(seen)

    run.said.clear()
    seen.clear()

    def let_go(run: Run) -> None:
        if not seen and run.heard("was ready"):
            seen.update(workers_on(ray_nodes))
            open_gate(gate)

    run.generate(ray_nodes.address, SPAN_NODES, let_go)
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
    assert len(seen) >= SPAN_NODES + SPAN_GPUS * SPAN_NODES + 1
    assert_nothing_left(seen)


@needs_stub
def test_the_loss_of_any_node_is_that_of_the_replica_and_another_group_goes_on(
    tmp_path: Path, ray_nodes: RayNodes, stub_nodes: StubNodes, undisturbed: Rows
) -> None:
    held = {"FAKE_HOLD_AFTER": str(2 * PER_SHARD), "FAKE_GATE": str(tmp_path / "gate")}
    nodes = {name: stub_nodes.add(name, **held) for name in ("one", "two")}
    run = SpanRun(tmp_path)
    seen: dict[int, float] = {}

    def lose(run: Run) -> None:
        if "two" not in nodes or not run.heard("came from"):
            return
        seen.update(workers_on(ray_nodes))
        # the one without the engine, so that the engine lives and waits
        lost = next(node for node in nodes.values() if not node.has_replica)
        ray_nodes.kill(lost)
        nodes.clear()
        open_gate(tmp_path / "gate")
        stub_nodes.add("three")

    run.generate(ray_nodes.address, SPAN_NODES, lose)
    assert run.heard("is lost: its node")
    assert run.heard("Other nodes get its shards")
    assert run.rows == undisturbed
    assert_nothing_left(seen)
