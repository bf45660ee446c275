"""Time and peak memory of comparing two synthetic runs: ``python -m tests.bench.bench_compare --help``.

Exit code 1 when a limit is exceeded. The limits are for two runs of a million rollouts on two cores.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tasks.comparison.equivalence import compare_runs
from tests.support.synthetic import ARMS, write_run

MOST_SECONDS = 30.0
MOST_GB = 3.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=1_000_000, help="per run")
    parser.add_argument("--tokens", type=int, default=100, help="per rollout")
    parser.add_argument("--top-k", type=int, default=0, help="stored top logprobs per token")
    parser.add_argument("--divergence", type=float, default=0.1, help="share of rollouts whose tokens differ")
    parser.add_argument("--shards", type=int, default=40, help="of each run")
    parser.add_argument("--directory", type=Path, help="keep the runs here and use them again")
    parser.add_argument("--compare-only", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.compare_only:
        _compare(arguments.directory)
        return
    with tempfile.TemporaryDirectory() as temporary:
        directory = arguments.directory or Path(temporary)
        _write(directory, arguments)
        # peak memory is counted per process: this one writes the runs, another compares them
        command = ["-m", "tests.bench.bench_compare", "--compare-only", "--directory", str(directory)]
        sys.exit(subprocess.run([sys.executable, *command], check=False).returncode)


def _write(directory: Path, arguments: argparse.Namespace) -> None:
    questions = arguments.rollouts // len(ARMS)
    for name, divergence in (("baseline", 0.0), ("candidate", arguments.divergence)):
        if (directory / name).exists():
            continue
        start = time.perf_counter()
        write_run(
            directory / name,
            shards=arguments.shards,
            questions_per_shard=max(1, questions // arguments.shards),
            tokens=arguments.tokens,
            top_k=arguments.top_k,
            divergence=divergence,
        )
        print(f"wrote {name} in {time.perf_counter() - start:.1f} s", flush=True)


def _compare(directory: Path) -> None:
    start, start_cpu = time.perf_counter(), time.process_time()
    report = compare_runs(directory / "baseline", directory / "candidate")
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
    peak_gb = _peak_gb()
    kinds = dict(report.tokens.kinds)
    print(
        f"compared {report.rows.baseline} with {report.rows.candidate} rollouts in {seconds:.1f} s "
        f"({cpu_seconds:.1f} s of CPU), peak RSS {peak_gb:.2f} GB: {report.verdict}, {kinds}"
    )
    if seconds > MOST_SECONDS or peak_gb > MOST_GB:
        sys.exit(f"the limits are {MOST_SECONDS:.0f} s and {MOST_GB:.0f} GB")


def _peak_gb() -> float:
    # getrusage would report the larger peak of the process that started this one
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024 / 1e9


if __name__ == "__main__":
    main()
