"""What a shard costs beside generation: Prefect's part and ours. ``python -m tests.bench.bench_prefect``

Runs 1,000 shards of one question each with an engine that makes one token per step: without Prefect, in a flow on the
embedded server, and in a flow on a local server. Prefect's part is the difference to the run without it, in seconds of
the clock and of all processors, those of the server included.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil

from tasks.generation.replica_pool import MAX_SHARD_TASKS, ReplicaPool
from tasks.generation.rung_state import RungState
from tasks.plan.run_config import config_from_parameters
from tasks.plan.run_directory import open_run
from tasks.plan.run_plan import RunPlan, plan_run
from tasks.plan.shards import Shard, scores_made_from, shard_dataset
from tasks.results.summary_subprocess import summarize_in_subprocess
from tasks.scoring.score_shard import score_shard
from tasks.scoring.scorers import load_scorer
from tasks.storage.published import record_published
from tasks.storage.run_files import write_manifest
from tests.support.fake_profile import write_fake_profile
from tests.support.harvest_command import environment
from tests.support.prefect_server import free_port, running_server


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds of the clock, and of processor time of the run and of all processes that it started."""

    clock_s: float
    cpu_s: float


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--alone", metavar="JSON", help="make a run without Prefect, and nothing else")
    options = parser.parse_args()
    if options.alone:
        order = json.loads(options.alone)
        collect_alone(plan_run(config_from_parameters(order["parameters"]), Path(order["runs_dir"])))
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        parameters = {
            "profile": str(write_fake_profile(root)),
            "questions": options.shards,
            "shard_size": 1,
            "max_tokens": 1,
        }
        few = {**parameters, "questions": 4}
        ours = _per_shard(lambda asked, name: _without_prefect(asked, root / name), parameters, few)
        embedded = _per_shard(lambda asked, name: _flow(asked, root / f"embedded-{name}"), parameters, few)
        (root / "server").mkdir()
        with running_server(root / "server", free_port()) as url:
            local = _per_shard(lambda asked, name: _flow(asked, root / f"local-{name}", url), parameters, few)
    print(f"{options.shards} shards of 8 rollouts of one token, on {os.cpu_count()} cores; seconds per shard")
    print(f"  {'':<28}{'clock':>10}{'processor':>12}")
    print(f"  {'ours, without Prefect':<28}{ours.clock_s:>10.4f}{ours.cpu_s:>12.4f}")
    for name, whole in (("Prefect's, embedded server", embedded), ("Prefect's, local server", local)):
        print(f"  {name:<28}{whole.clock_s - ours.clock_s:>10.4f}{whole.cpu_s - ours.cpu_s:>12.4f}")


def collect_alone(plan: RunPlan) -> None:
    """What the flow does for each shard, in the same order and as many at a time, without Prefect."""
    open_run(plan)
    scorer = load_scorer(plan.config.scorer)
    rung = RungState(plan.paths.state / "oom_ladder.json")

    def collect(pool: ReplicaPool, shard: Shard) -> None:
        pool.generate(plan, shard)
        paths, index = plan.paths, shard.index
        score_shard(paths.rollouts(index), scores := paths.scores(index), plan.config.scorer)
        record_published(scores, made_from=scores_made_from(paths, index, scorer))
        pool.wake()

    with ReplicaPool([plan], rung=rung) as pool, ThreadPoolExecutor(MAX_SHARD_TASKS) as threads:
        futures = [threads.submit(collect, pool, shard) for shard in shard_dataset(plan)]
        while not all(future.done() for future in futures):
            pool.pump(0.5)
        for future in futures:
            future.result()
    summarize_in_subprocess(plan.paths.root)
    write_manifest(plan.paths.root)


def _per_shard(
    measure: Callable[[dict[str, object], str], Cost], parameters: dict[str, object], few: dict[str, object]
) -> Cost:
    """Cost per shard, without that of start and end: the difference between many and few shards."""
    least, most = measure(few, "few"), measure(parameters, "many")
    shards = int(str(parameters["questions"])) - int(str(few["questions"]))
    return Cost(clock_s=(most.clock_s - least.clock_s) / shards, cpu_s=(most.cpu_s - least.cpu_s) / shards)


def _without_prefect(parameters: dict[str, object], runs_dir: Path) -> Cost:
    order = json.dumps({"parameters": parameters, "runs_dir": str(runs_dir)})
    return _run([sys.executable, "-m", "tests.bench.bench_prefect", "--alone", order], environment(), None)


def _flow(parameters: dict[str, object], runs_dir: Path, url: str | None = None) -> Cost:
    options = [part for name, value in parameters.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    runs_dir.mkdir(parents=True)
    variables = environment(PREFECT_HOME=str(runs_dir / ".prefect"))
    variables.pop("PREFECT_API_URL", None)
    if url is not None:
        variables["PREFECT_API_URL"] = url
    command = [sys.executable, "-m", "flows.commands.cli", "run", *options, "--runs-dir", str(runs_dir)]
    return _run(command, variables, url)


def _run(command: list[str], variables: dict[str, str], url: str | None) -> Cost:
    server_before, before, started = _server_cpu(url), _children_cpu(), time.monotonic()
    ended = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if ended.returncode:
        sys.exit(f"{command[2]} failed: {ended.stderr[-2000:]}")
    cpu = _children_cpu() - before + _server_cpu(url) - server_before
    return Cost(clock_s=time.monotonic() - started, cpu_s=cpu)


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _server_cpu(url: str | None) -> float:
    """Processor time of the local server, which outlives the run, and of its own children."""
    if url is None:
        return 0.0
    used = 0.0
    for process in psutil.Process().children(recursive=True):
        times = process.cpu_times()
        used += times.user + times.system
    return used


if __name__ == "__main__":
    main()
