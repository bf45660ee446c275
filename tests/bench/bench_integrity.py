"""What checking a run's files costs the commands that read them: ``python -m tests.bench.bench_integrity [ROLLOUTS]``.

Each command runs in a process of its own. The check is the time in which that process hashes files, and its share is of
the whole command. The first line is the worst case: a process that only reads all columns of all rollouts.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.harvest_command import environment
from tests.support.synthetic import write_large_run

MEASURE = """
import sys, time
started = time.perf_counter()
import contextlib, io
from pathlib import Path
import tasks.files as files
spent = 0.0
def timed(hash_file):
    def hash_timed(path):
        global spent
        began = time.perf_counter()
        try:
            return hash_file(path)
        finally:
            spent += time.perf_counter() - began
    return hash_timed
files.sha256_file, files.xxh3_file = timed(files.sha256_file), timed(files.xxh3_file)
run, out = Path(sys.argv[1]), sys.argv[2]
if sys.argv[3] == "read":
    from tasks.results.scored_rollouts import scored_shards
    for _ in scored_shards(run):
        pass
else:
    from flows.commands.cli import main
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main([word.format(run=run, out=out) for word in sys.argv[3:]])
print(spent, time.perf_counter() - started)
"""
COMMANDS = (
    "read",
    "arms {run}",
    "report {run}",
    "score {run}",
    "compare {run} {run}",
    "export {run} --to parquet --out {out}/parquet",
    "export {run} --to trl --out {out}/trl",
)


def main(rollouts: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        run = write_large_run(Path(directory) / "run", rollouts)
        size = sum(path.stat().st_size for path in run.root.rglob("*.parquet"))
        print(f"{rollouts:,} rollouts or a few more, {size / 1e6:,.0f} MB")
        for command in COMMANDS:
            words = [sys.executable, "-c", MEASURE, str(run.root), directory, *command.split()]
            printed = subprocess.run(words, env=environment(), check=True, capture_output=True, text=True).stdout
            checked, whole = map(float, printed.split()[-2:])
            print(f"  {command:<48}{checked:>8.2f} s of {whole:>6.2f} s {checked / whole:>7.1%}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
