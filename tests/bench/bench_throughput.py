"""The pipeline beside vLLM's own limit: ``harvest bench`` over 2,000 rollouts in shards of 32 questions.

It runs with the demo model, and with a random model of 26 million parameters and log-normal completion lengths.

``python -m tests.bench.bench_throughput [--repeats N] [--questions N]``
"""

import argparse
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.random_model import make_random_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=250, help="under 8 arms each")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", help="as of harvest bench")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = make_random_model(Path(folder) / "random-26m")
        common = ["--questions", str(arguments.questions), "--repeats", str(arguments.repeats), "--shard-size", "32"]
        common += ["--only", arguments.only] if arguments.only else []
        for options in (
            ["--max-tokens", "128"],
            ["--model", str(model), "--max-tokens", "256", "--lengths", "lognormal:48:0.8"],
        ):
            command = ["harvest", "bench", *options, *common]
            print(f"$ {shlex.join(command)}", flush=True)
            subprocess.run(
                [sys.executable, "-m", "flows.commands.cli", *command[1:], "--runs-dir", str(Path(folder) / "runs")],
                check=True,
            )


if __name__ == "__main__":
    main()
