"""Runs on the nodes of a real Ray cluster, by a pool in the test's process, and nodes with GPUs of a stub."""

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tasks.fleet.node_pool import NodePool
from tasks.fleet.ray_cluster import ray_cluster
from tasks.generation.generation_session import generation_session
from tasks.node.prompt_check import record_prompts
from tasks.plan.run_config import RunConfig
from tasks.plan.run_directory import open_run
from tasks.plan.run_plan import RunPlan, plan_run
from tasks.plan.shards import Shard, shard_dataset
from tasks.plan.waves import find_remaining
from tests.faults.runs import NEVER, Rows, read_rows
from tests.support.fake_profile import write_fake_profile
from tests.support.nvml_stub import stub_environment
from tests.support.patience import SHORT_SECONDS, until
from tests.support.ray_nodes import REPLICA, RayNode, RayNodes

SHARDS, SHARD_SIZE = 8, 4
PER_SHARD = SHARD_SIZE * 8
SPAN_NODES, SPAN_GPUS = 2, 2
"""The nodes of a replica on several, and its GPUs on each of them."""


class Run:
    """A run that is generated on the nodes of a cluster, by a pool in this process."""

    def __init__(
        self,
        folder: Path,
        *,
        engine: str = "tests.support.fake_engines:FakeEngine",
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


class SpanRun(Run):
    """A run whose replicas need two GPUs on each of two nodes."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, engine="tests.support.spanning_engine:SpanningEngine", span=(SPAN_NODES, SPAN_GPUS))


class StubNodes:
    """Adds nodes with two of the stub's GPUs each."""

    def __init__(self, nodes: RayNodes, folder: Path, stub: Path) -> None:
        self._nodes, self._folder, self._stub = nodes, folder, stub
        self._added = 0

    def add(self, name: str, **variables: str) -> RayNode:
        first = SPAN_GPUS * self._added
        self._added += 1
        gpus = ",".join(str(first + index) for index in range(SPAN_GPUS))
        environment = stub_environment(self._stub)
        given = {key: value for key, value in environment.items() if key.startswith(("NVML", "LD_"))}
        return self._nodes.add(name, self._folder, gpus=SPAN_GPUS, CUDA_VISIBLE_DEVICES=gpus, **(given | variables))


def workers_on(nodes: RayNodes) -> dict[int, float]:
    """Start times, by pid, of the nodes' workers, the replica and the engine's parts."""
    return {
        process.pid: process.create_time()
        for node in nodes.nodes
        for process in node.below("ray::NodeWorker", "ray::Part", REPLICA)
    }
