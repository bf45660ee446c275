"""Runs the benchmarks of this folder one after the other, and prints the command of each.

``python -m tests.bench [NAME ...]``
"""

import shlex
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    names = sys.argv[1:] or sorted(path.stem for path in HERE.glob("bench_*.py"))
    failed = []
    for name in names:
        command = ["python", "-m", f"tests.bench.{name}"]
        print(f"$ {shlex.join(command)}", flush=True)
        start = time.monotonic()
        ended = subprocess.run([sys.executable, *command[1:]], check=False)
        print(f"({time.monotonic() - start:.0f} s)\n", flush=True)
        if ended.returncode:
            failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
