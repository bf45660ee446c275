"""Measure the telemetry sampler's share of one CPU core: python -m tests.bench.bench_telemetry [--seconds N].

Samples this machine (or, with --gpus N, N GPUs through the installed driver's NVML) and 8 replicas at 1 Hz, and reads
the sampler thread's own CPU time from the kernel.
"""

import argparse
import tempfile
import threading
import time
from pathlib import Path

import psutil

from profiles.schema import Profile
from tasks.telemetry import ReplicaStats, TelemetrySampler


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
    parser.add_argument("--gpus", type=int, default=0)
    options = parser.parse_args()
    expect = {"device": "cuda", "gpu_count": options.gpus} if options.gpus else {"device": "cpu"}
    profile = Profile.model_validate({"name": "bench", "replicas": max(1, options.gpus), "expect": expect})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "telemetry.parquet"
        sampler = TelemetrySampler(path, profile, lambda: [stats(replica) for replica in range(8)])
        before = psutil.Process().cpu_times()
        started = time.monotonic()
        with sampler:
            time.sleep(options.seconds)
        after = psutil.Process().cpu_times()
        elapsed = time.monotonic() - started
    used = after.user + after.system - before.user - before.system
    print(
        f"telemetry used {used:.3f} s of CPU in {elapsed:.1f} s: {100 * used / elapsed:.2f}% of one core "
        f"({options.gpus} GPUs, 8 replicas, all threads of the process, {threading.active_count()} now)"
    )


if __name__ == "__main__":
    main()
