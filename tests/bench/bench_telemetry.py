"""The telemetry sampler's share of one CPU core: ``python -m tests.bench.bench_telemetry [--seconds N]``.

Samples 8 replicas and 8 GPUs at 1 Hz. The GPUs are those of the compiled stub of NVIDIA's library, read through
nvidia-ml-py, or with --here those of this machine (without any, its processes). CPU time is that of the whole process,
which does nothing else, because polars compresses the file in threads of its own.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import polars as pl
import psutil

from profiles.schema import Profile
from tasks.node.gpu_reading import NoDriverError
from tasks.node.nvml import PynvmlReader
from tasks.node.telemetry import ReplicaStats, TelemetrySampler
from tests.support.nvml_stub import build_stub, stub_environment


def stats(replica: int) -> ReplicaStats:
    return ReplicaStats(
        replica=replica,
        running=256,
        waiting=12,
        kv_cache_usage=0.5,
        preemptions=1,
        prefix_cache_hits=1000,
        prefix_cache_queries=2000,
        generation_tokens=1_000_000,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--here", action="store_true")
    options = parser.parse_args()
    if options.here:
        measure(options.seconds)
        return
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.bench.bench_telemetry", "--here", "--seconds", str(options.seconds)]
        subprocess.run(command, env=stub_environment(build_stub(Path(folder))), check=True)


def measure(seconds: float) -> None:
    try:
        count = PynvmlReader().driver().gpu_count
    except NoDriverError:
        count = 0
    expect = {"device": "cuda", "gpu_count": count} if count else {"device": "cpu"}
    profile = Profile.model_validate({"name": "bench", "replicas": max(1, count), "expect": expect})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "telemetry.parquet"
        sampler = TelemetrySampler(path, profile, lambda: [stats(replica) for replica in range(8)])
        before = psutil.Process().cpu_times()
        started = time.monotonic()
        with sampler:
            time.sleep(seconds)
        after = psutil.Process().cpu_times()
        elapsed = time.monotonic() - started
        sources = pl.read_parquet(path).select(pl.struct("source", "index").n_unique()).item()
    used = after.user + after.system - before.user - before.system
    print(
        f"telemetry used {used:.3f} s of CPU in {elapsed:.1f} s: {100 * used / elapsed:.2f}% of one core "
        f"({count} GPUs, 8 replicas, {sources} sources at 1 Hz)"
    )


if __name__ == "__main__":
    main()
