"""Generates a run's rollouts without Prefect, which takes seconds to start.

    python -m tests.faults.generation_process JSON

It retries what a Prefect task would retry, prints the outcome as JSON, and exits with the command line's exit codes.
"""

import json
import os
import resource
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows.shards.shard_waves import ShardWaves
from tasks.errors import HarvestError
from tasks.generation.recovery import PoolEvent
from tasks.generation.replica_pool import ReplicaPool
from tasks.generation.rung_state import RungState
from tasks.generation.shard_queue import ShardResult
from tasks.locks import run_lock
from tasks.plan.run_config import config_from_parameters
from tasks.plan.run_directory import open_run
from tasks.plan.run_plan import RunPlan, plan_run
from tasks.plan.shards import Shard, shard_dataset
from tasks.plan.waves import find_remaining


def main() -> None:
    request = json.loads(sys.argv[1])
    for name, limit in request.get("limits", {}).items():
        resource.setrlimit(getattr(resource, name), (limit, limit))
    if request.get("cgroup"):
        Path(request["cgroup"]).write_text(str(os.getpid()))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        outcome = generate_missing(plan_run(config_from_parameters(request["parameters"]), Path(request["runs_dir"])))
    except HarvestError as error:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}))
        sys.exit(error.exit_code)
    print(json.dumps(outcome))


def generate_missing(plan: RunPlan) -> dict[str, Any]:
    """Finish every shard of ``plan``; return what happened on the way."""
    events: list[PoolEvent] = []
    with run_lock(plan.paths.state / "lock"):
        leftovers = open_run(plan)
        missing = find_remaining(plan, shard_dataset(plan)).to_generate
        rung = RungState(plan.paths.state / "oom_ladder.json")
        with ThreadPoolExecutor(64) as threads, ReplicaPool([plan], rung=rung, listener=events.append) as pool:
            waves = ShardWaves(pool, plan.num_rollouts)
            futures = [threads.submit(_generate, waves, plan, shard) for shard in missing]
            while not all(future.done() for future in futures):
                pool.pump(0.2)
                for future in futures:
                    if future.done():
                        future.result()
            results = [future.result() for future in futures]
    return {
        "leftovers": leftovers,
        "events": [asdict(event) for event in events],
        "shards": [asdict(result) for result in results if result is not None],
        "rung": rung.rung,
        "restarts": pool.restarts,
        "start_seconds": pool.engine_start_seconds,
        "rollouts_finished": pool.rollouts_finished,
        "rollouts_resumed": pool.rollouts_resumed,
    }


def _generate(waves: ShardWaves, plan: RunPlan, shard: Shard) -> ShardResult | None:
    while True:
        try:
            return waves.generate(plan, shard, log=lambda text: None)
        except HarvestError as error:
            if not error.retryable:
                raise


if __name__ == "__main__":
    main()
