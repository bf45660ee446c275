"""Time, memory and size of a report: ``python -m tests.bench.bench_report [ROLLOUTS]``.

The report is made in a process of its own, as at the end of a run, so that writing the run does not count. Exit code 1
when a limit is exceeded. The limits are for 100,000 rollouts.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.harvest_command import environment
from tests.support.synthetic import write_large_run

MOST_SECONDS = 20.0
"""From the start of the process to its end."""
MOST_PEAK_MB = 1_000.0
MOST_PAGE_MB = 5.0

MAKE = """
import sys
from pathlib import Path
from tasks.results.report_page import publish_page
publish_page(Path(sys.argv[1]))
"""


def main(rollouts: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        run = write_large_run(Path(directory) / "run", rollouts, truncated=0.05)
        started = time.monotonic()
        subprocess.run([sys.executable, "-c", MAKE, str(run.root)], env=environment(), check=True)
        seconds = time.monotonic() - started
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6
        page = run.report_html.stat().st_size / 1e6
    print(f"a report of {rollouts:,} rollouts or a few more")
    exceeded = [
        _exceeds("time", seconds, MOST_SECONDS, "s"),
        _exceeds("peak memory", peak, MOST_PEAK_MB, "MB"),
        _exceeds("size of the page", page, MOST_PAGE_MB, "MB"),
    ]
    if any(exceeded):
        sys.exit(1)


def _exceeds(name: str, value: float, most: float, unit: str) -> bool:
    """Whether ``value`` exceeds its limit. Prints both."""
    word = "EXCEEDED" if value > most else "holds"
    print(f"  {name:<18}{value:>10.2f} {unit:<3} limit {most:>8,.0f} {unit:<3} {word}")
    return value > most


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
