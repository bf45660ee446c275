"""Stopping rules beside a fixed number of samples: ``python -m tests.bench.bench_stopping_rules``.

Each repeat runs ``harvest run`` with 32 samples per arm, and with each rule and 32 at most, with the demo model and
equal slots: the same number of sequences that run and that wait. The order rotates. Exit code 1 when a sample of a run
with a rule is not the same in the run without one.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import polars as pl

from tasks.records import ROLLOUT_KEY
from tests.support.harvest_command import environment
from tests.support.prefect_server import free_port, running_server

FIXED = "fixed"
MOST = 32
FIRST = 4
BATCH = 16
"""Questions in flight with ``FIRST`` samples each; with ``MOST`` they are fewer, and their rollouts as many."""


@dataclass(frozen=True, kw_only=True)
class Ran:
    """One run. Times are in seconds."""

    rows: pl.DataFrame
    """Key and tokens of each rollout."""
    tokens: int
    generation_s: float
    """From the first admitted to the last finished rollout."""
    clock_s: float
    cpu_s: float
    """Processor time of all of its processes."""
    mean_reward: float

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.generation_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=96, help="under 8 arms each")
    parser.add_argument("--shard-size", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rules", nargs="+", default=["mixed", "correct:2"])
    arguments = parser.parse_args()
    common = {name: getattr(arguments, name) for name in ("questions", "shard_size", "max_tokens")}
    asked = {FIXED: {**common, "samples_per_arm": MOST, "question_batch_size": BATCH * FIRST // MOST}}
    for rule in arguments.rules:
        waves = {"samples_per_arm": FIRST, "max_samples_per_arm": MOST, "sample_until": rule}
        asked[rule] = {**common, **waves, "question_batch_size": BATCH}
    names, made = [*asked], {name: list[Ran]() for name in asked}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "server").mkdir()
        with running_server(root / "server", free_port()) as url:
            for repeat in range(arguments.repeats):
                first = repeat % len(names)
                for name in [*names[first:], *names[:first]]:
                    made[name].append(_run(asked[name], root / f"{repeat}-{names.index(name)}", url))
    print(f"{arguments.questions} questions in shards of {arguments.shard_size}, {os.cpu_count()} cores; medians of")
    print(f"{arguments.repeats} runs, ratios within a repeat")
    _print_table(made)
    if changed := {name: count for name in arguments.rules if (count := _num_changed(made[name][0], made[FIXED][0]))}:
        sys.exit(f"samples that are not those of the run with a fixed number: {changed}")
    print("every sample of a run with a rule is that of the run with a fixed number")


def _run(parameters: Mapping[str, Any], runs_dir: Path, url: str) -> Ran:
    options = [part for name, value in parameters.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, "-m", "flows.commands.cli", "run", *options, "--runs-dir", str(runs_dir), "--json"]
    before, began = _children_cpu(), time.monotonic()
    ended = subprocess.run(command, env=environment(PREFECT_API_URL=url), capture_output=True, text=True, check=False)
    clock_s = time.monotonic() - began
    if ended.returncode:
        sys.exit(f"{' '.join(command)} failed: {ended.stderr[-2000:]}")
    report = json.loads(ended.stdout)
    rollouts = pl.scan_parquet(Path(report["run_dir"]) / "rollouts" / "*.parquet")
    return Ran(
        rows=rollouts.select(*ROLLOUT_KEY, "completion_ids").collect(),
        tokens=report["generation"]["tokens"],
        generation_s=report["generation"]["seconds"],
        clock_s=clock_s,
        cpu_s=_children_cpu() - before,
        mean_reward=report["mean_reward"],
    )


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _num_changed(some: Ran, all_of_them: Ran) -> int:
    """Return how many rollouts of ``some`` have other tokens in ``all_of_them``, or are not there."""
    pairs = some.rows.join(all_of_them.rows, on=ROLLOUT_KEY, how="left", suffix="_fixed")
    return pairs.filter(pl.col("completion_ids").ne_missing(pl.col("completion_ids_fixed"))).height


def _print_table(made: Mapping[str, list[Ran]]) -> None:
    heads = ("tokens", "rollouts", "groups", "mean reward", "seconds", "cpu s", "tokens/s", "ratio", "tokens/cpu s")
    print(f"  {'':<12}" + "".join(f"{head:>13}" for head in heads))
    for name, runs in made.items():
        one = runs[0]
        ratio = median(run.tokens_per_s / fixed.tokens_per_s for run, fixed in zip(runs, made[FIXED], strict=True))
        cells = (
            f"{one.tokens:,}",
            f"{one.rows.height:,}",
            f"{one.rows.select('example_id', 'arm_id').n_unique():,}",
            f"{one.mean_reward:.4f}",
            f"{median(run.clock_s for run in runs):.1f}",
            f"{median(run.cpu_s for run in runs):.1f}",
            f"{median(run.tokens_per_s for run in runs):,.0f}",
            f"{ratio:.3f}",
            f"{median(run.tokens / run.cpu_s for run in runs):,.0f}",
        )
        print(f"  {name:<12}" + "".join(f"{cell:>13}" for cell in cells))


if __name__ == "__main__":
    main()
