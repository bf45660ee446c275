"""Nodes on a real Ray cluster of several raylets, with real replica pools and a fake engine in them."""

import contextlib
import itertools
import random
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from profiles.load import DEMO_MODEL
from tasks.errors import NodesLost
from tasks.fleet.node_pool import NodePool
from tasks.fleet.ray_cluster import ray_cluster
from tasks.generation.generation_log import read_sessions
from tasks.generation.generation_session import generation_session
from tasks.generation.rung_state import RungState
from tasks.node.prompt_check import record_prompts
from tasks.plan.run_config import RunConfig
from tasks.plan.run_directory import open_run
from tasks.plan.run_plan import RunPlan, plan_run
from tasks.plan.shards import Shard, find_remaining, shard_dataset
from tasks.time_limits import FACTOR_VARIABLE
from tests.faults.runs import NEVER, Rows, read_rows
from tests.support.fake_engines import open_gate
from tests.support.fake_profile import write_fake_profile
from tests.support.patience import SHORT_SECONDS, is_alive, until
from tests.support.ray_nodes import REPLICA, RayNodes

pytestmark = pytest.mark.slow

SHARDS, SHARD_SIZE = 8, 4
PER_SHARD = SHARD_SIZE * 8
ENGINE = "tests.support.fake_engines:FakeEngine"


class Run:
    """A run that is generated on the nodes of a cluster, by a pool in this process."""

    def __init__(
        self,
        folder: Path,
        *,
        engine: str = ENGINE,
        span: tuple[int, int] | None = None,
        model: str | None = None,
    ) -> None:
        """``span`` are the nodes of a replica and its GPUs on each of them."""
        folder.mkdir(parents=True, exist_ok=True)
        profile = write_fake_profile(folder, backend=engine)
        if span is not None:
            nodes, gpus = span
            wide = f"tensor_parallel_size = {nodes * gpus}\nnodes_per_replica = {nodes}\n"
            text = profile.read_text().replace('device = "cpu"', f"gpu_count = {gpus}\ngpu_memory_gib = 79")
            profile.write_text(text.replace("kv_cache_space_gib = 1\n", wide))
        given = {"profile": str(profile), "shard_size": SHARD_SIZE, "model": model}
        self.plan: RunPlan = plan_run(RunConfig.model_validate(given), folder / "runs")
        open_run(self.plan)
        record_prompts(self.plan)
        self.shards: list[Shard] = shard_dataset(self.plan)
        self.said: list[str] = []

    @property
    def rows(self) -> Rows:
        return read_rows(self.plan.paths.root)

    @property
    def num_left(self) -> int:
        return len(find_remaining(self.plan, self.shards).to_generate)

    def generate(
        self,
        address: str,
        nodes: int,
        disturb: Callable[["Run"], None] = lambda run: None,
        *,
        silent_s: float = 60,
    ) -> None:
        """Generate what is left on up to ``nodes`` nodes. ``disturb`` is called again and again meanwhile."""
        todo = find_remaining(self.plan, self.shards).to_generate
        with (
            ThreadPoolExecutor(SHARDS) as threads,
            ray_cluster(address, self.plan.paths.logs / "ray.log") as cluster,
            NodePool(
                [self.plan],
                cluster,
                nodes,
                listener=lambda event: self.said.append(f"{event.kind}: {event.message}"),
                log=self.said.append,
                wait_s=NEVER,
                silent_s=silent_s,
            ) as pool,
        ):
            futures = [threads.submit(pool.generate, self.plan, shard) for shard in todo]

            def done() -> bool:
                pool.pump(SHORT_SECONDS)
                disturb(self)
                return all(future.done() for future in futures)

            until(done, "all shards are made", logs=sorted(self.plan.paths.logs.rglob("*.log")))
            for future in futures:
                future.result()

    def generate_here(self) -> None:
        """Generate what is left on this machine, without Ray."""
        todo = find_remaining(self.plan, self.shards).to_generate
        with (
            ThreadPoolExecutor(SHARDS) as threads,
            generation_session([self.plan], listener=lambda event: None, log=lambda text: None) as pool,
        ):
            futures = [threads.submit(pool.generate, self.plan, shard) for shard in todo]
            until(lambda: pool.pump(SHORT_SECONDS) or all(future.done() for future in futures), "all shards are made")

    def heard(self, text: str, *, after: str = "") -> bool:
        """Whether ``text`` was said, and since ``after`` was said for the first time."""
        later = itertools.dropwhile(lambda said: after not in said, self.said)
        return any(text in said for said in later)


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
    assert {path.parent.name for path in logs.glob("*/replica-0-001.log")} == {"node-large", "node-small"}
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
    tables = state.state.global_state_accessor
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
