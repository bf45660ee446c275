"""How long a report takes, what it needs and how large it is: ``python -m tests.bench.bench_report [ROLLOUTS]``."""

import resource
import sys
import tempfile
import time
from pathlib import Path

from tasks.report import publish_report
from tests.synthetic import ARMS, write_run


def main(rollouts: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        questions = rollouts // len(ARMS) // 4
        run = write_run(
            Path(directory) / "run",
            shards=10,
            questions_per_shard=questions // 10,
            samples=4,
            min_tokens=20,
            tokens=400,
            truncated=0.05,
        )
        baseline = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.monotonic()
        page = publish_report(run.root)
        seconds = time.monotonic() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(
            f"{questions * len(ARMS) * 4:,} rollouts: {seconds:.1f} s, {page.stat().st_size / 1e6:.2f} MB, peak memory "
            f"{peak / 1e6:.2f} GB (writing the run alone {baseline / 1e6:.2f} GB)"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
