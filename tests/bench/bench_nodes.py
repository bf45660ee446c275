"""What the pool of nodes itself costs: many small shards over a real Ray cluster, whose workers make them at once.

``python -m tests.bench.bench_nodes [SHARDS] [NODES]`` prints the processor time of this process per shard, and how much
its memory grew after the first tenth.
"""

import sys
import tempfile
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import psutil

from tasks.fleet.node_pool import NodePool
from tasks.fleet.ray_cluster import ray_cluster
from tasks.generation.shard_queue import ShardResult
from tasks.plan.run_config import RunConfig
from tasks.plan.run_plan import plan_run
from tasks.plan.shards import shard_dataset
from tests.support.fake_profile import write_fake_profile
from tests.support.ray_nodes import running_cluster
from tests.support.scripted_nodes import Script, ScriptedWorker

MIB = 1 << 20


class BenchWorker(ScriptedWorker):
    """Makes what it is given at once."""

    def __init__(self) -> None:
        from tasks.fleet.node_status import node_name

        super().__init__(node_name(), Script(capacity=4))


def main(shards: int = 2000, nodes: int = 8) -> None:
    folder = Path(tempfile.mkdtemp())
    dataset = folder / "questions.jsonl"
    dataset.write_text("".join(f'{{"question": "{n} + 1?", "answer": "{n + 1}"}}\n' for n in range(shards)))
    given = {"profile": str(write_fake_profile(folder)), "dataset": {"path": str(dataset)}, "shard_size": 1}
    plan = plan_run(RunConfig.model_validate(given), folder / "runs")
    waiting = deque(shard_dataset(plan))
    process, running, said = psutil.Process(), deque[Future[ShardResult]](), list[str]()
    with running_cluster() as cluster:
        for number in range(nodes):
            cluster.add(f"node-{number}", folder)
        with (
            ThreadPoolExecutor(64) as threads,
            ray_cluster(cluster.address, folder / "ray.log", BenchWorker) as ray,
            NodePool([plan], ray, nodes, log=said.append) as pool,
        ):
            while not any(f"begins: {nodes} of {nodes}" in told for told in said):
                pool.pump(0.1)
            used, began, memory, done = time.process_time(), time.monotonic(), 0, 0
            while waiting or running:
                while waiting and len(running) < pool.capacity:
                    running.append(threads.submit(pool.generate, plan, waiting.popleft()))
                pool.pump(0.1)
                while running and running[0].done():
                    running.popleft().result()
                    done += 1
                if not memory and done >= shards // 10:
                    memory = process.memory_info().rss
            used, took = time.process_time() - used, time.monotonic() - began
            grown = process.memory_info().rss - memory
    print(f"{shards} shards on {nodes} nodes in {took:.1f} s: {1000 * used / shards:.1f} ms of this process per shard")
    print(f"memory: {memory / MIB:.0f} MiB after a tenth, and {grown / MIB:+.0f} MiB at the end")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
