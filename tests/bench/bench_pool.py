"""Memory of the replicas' parent process for runs of any size, and its time per shard.

``python -m tests.bench.bench_pool [ROLLOUTS ...]`` runs ``harvest run`` with a fake engine, compares the run with
itself, and reads the counters of the parent process. The fake completions are as long as real ones and cost almost
nothing. Memory is the peak resident size that the kernel recorded (VmHWM). Exit code 1 when a limit is exceeded. The
time limit is for the pool alone: a whole run also scores its shards, and Prefect takes some 40 ms per task run.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.support.harvest_command import environment

SIZES = (20_000, 200_000)
ARMS = 8
MAX_TOKENS = 1024
STEP_TOKENS = 100
"""Tokens per request and step of the fake engine: completions then have 200 to 1,024 tokens."""

MOST_MIB = 400
MOST_GROWTH = 1.10
"""Limit of the peak memory of the largest run, divided by that of the smallest."""
MOST_MS_PER_SHARD = 50

PROFILE = """
name = "bench-pool"
model = "demo"
question_batch_size = 128

[engine]
backend = "tests.support.fake_engines:FakeEngine"
dtype = "float32"
max_model_len = 2048
max_num_seqs = 1024
kv_cache_space_gib = 1

[expect]
device = "cpu"
"""


WORK = {b"tasks.generation.replica": "replica", b"summarizes": "summary", b"compares": "comparison"}
"""What a child of the parent works on, by a word of its command line."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """``peak_mib`` and ``cpu_s`` are of the parent alone. ``work_mib`` has the peaks of its children, by work."""

    rollouts: int
    shards: int
    wall_s: float
    peak_mib: float
    cpu_s: float
    work_mib: dict[str, float]


def measure(rollouts: int, folder: Path, *, prefect: bool) -> Cost:
    """Generate ``rollouts`` with the pool alone, or with ``harvest run``, repeated to compare the run with itself."""
    dataset = folder / f"{rollouts}.jsonl"
    with dataset.open("w", encoding="utf-8") as file:
        for number in range(rollouts // ARMS):
            file.write(json.dumps({"question": f"What is {number} plus 1?", "answer": str(number + 1)}) + "\n")
    profile = folder / "bench.toml"
    profile.write_text(PROFILE)
    runs_dir = folder / f"runs-{rollouts}-{prefect}"
    if prefect:
        options = ["--profile", profile, "--dataset", dataset, "--max-tokens", MAX_TOKENS, "--runs-dir", runs_dir]
        command = ["-m", "flows.commands.cli", "run", "--json", "--top-logprobs", "0", *map(str, options)]
    else:
        parameters = {"profile": str(profile), "dataset": str(dataset), "max_tokens": MAX_TOKENS}
        command = [
            "-m",
            "tests.faults.generation_process",
            json.dumps({"runs_dir": str(runs_dir), "parameters": parameters}),
        ]
    began = time.monotonic()
    peak, cpu, peaks = _watch(command)
    [config] = runs_dir.glob("*/config.json")
    if prefect:
        compared, _, more = _watch([*command, "--baseline", str(config.parent), "--require", "bitwise"])
        peak = max(peak, compared)
        peaks = {work: max(peaks[work], more[work]) for work in peaks}
    return Cost(
        rollouts=rollouts,
        shards=len(list(runs_dir.glob("*/rollouts/*.parquet"))),
        wall_s=time.monotonic() - began,
        peak_mib=peak,
        cpu_s=cpu,
        work_mib=peaks,
    )


def _watch(command: list[str]) -> tuple[float, float, dict[str, float]]:
    """Run ``command``. Returns its peak memory in MiB, its CPU seconds, and the peak memory of its children by work."""
    parent = subprocess.Popen(
        [sys.executable, *command], env=environment(FAKE_TOKENS=str(STEP_TOKENS)), stdout=subprocess.DEVNULL
    )
    peak = cpu = 0.0
    peaks = dict.fromkeys(WORK.values(), 0.0)
    while parent.poll() is None:
        peak, cpu = max(peak, _peak_mib(parent.pid)), max(cpu, _cpu_seconds(parent.pid))
        for child in _children(parent.pid):
            for word in WORK.keys() & set(_read(f"/proc/{child}/cmdline").replace(b" ", b"\0").split(b"\0")):
                peaks[WORK[word]] = max(peaks[WORK[word]], _peak_mib(child))
        time.sleep(0.2)
    assert parent.returncode == 0
    return peak, cpu, peaks


def main() -> None:
    sizes = sorted(int(argument) for argument in sys.argv[1:]) or SIZES
    passed = []
    print(
        "| parent | rollouts | shards | parent peak MiB | parent CPU s | ms per shard | replica peak MiB | "
        "summary peak MiB | comparison peak MiB | wall s |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for prefect in (False, True):
        name = "harvest run" if prefect else "pool alone"
        # the fixed cost of a parent process: imports, and one shard
        nothing = _measure(ARMS * 8, prefect=prefect)
        _print(name, nothing, 0.0)
        costs = []
        for size in sizes:
            cost = _measure(size, prefect=prefect)
            per_shard = 1000 * (cost.cpu_s - nothing.cpu_s) / max(1, cost.shards - nothing.shards)
            _print(name, cost, per_shard)
            if cost.peak_mib > MOST_MIB:
                passed.append(f"{name}: {cost.peak_mib:.0f} MiB for {size:,} rollouts, the limit is {MOST_MIB}")
            if per_shard > MOST_MS_PER_SHARD and not prefect:
                passed.append(f"{name}: {per_shard:.0f} ms per shard of {size:,} rollouts, not {MOST_MS_PER_SHARD}")
            costs.append(cost)
        growth = costs[-1].peak_mib / costs[0].peak_mib
        if growth > MOST_GROWTH:
            passed.append(f"{name}: {growth:.2f} times the memory for the largest run, the limit is {MOST_GROWTH}")
    if passed:
        sys.exit("\n".join(passed))


def _measure(rollouts: int, *, prefect: bool) -> Cost:
    with tempfile.TemporaryDirectory() as folder:
        return measure(rollouts, Path(folder), prefect=prefect)


def _print(name: str, cost: Cost, per_shard: float) -> None:
    print(
        f"| {name} | {cost.rollouts:,} | {cost.shards} | {cost.peak_mib:.0f} | {cost.cpu_s:.1f} | {per_shard:.1f} | "
        f"{' | '.join(f'{peak:.0f}' for peak in cost.work_mib.values())} | {cost.wall_s:.0f} |",
        flush=True,
    )


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def _peak_mib(pid: int) -> float:
    for line in _read(f"/proc/{pid}/status").splitlines():
        if line.startswith(b"VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _cpu_seconds(pid: int) -> float:
    fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def _children(pid: int) -> list[int]:
    return [int(child) for child in _read(f"/proc/{pid}/task/{pid}/children").split()]


if __name__ == "__main__":
    main()
