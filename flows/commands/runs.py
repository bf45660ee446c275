"""``harvest runs``: the runs of a directory."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

WIDE = 130
"""Characters that a line with every column may take."""


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "runs", help="list runs: state, counts, mean reward, equivalence verdict, size", description="List runs."
    )
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), metavar="DIR", help="where runs are kept")
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    from tasks.errors import ConfigError
    from tasks.results.run_list import list_runs

    if not options.runs_dir.is_dir():
        raise ConfigError(f"{options.runs_dir} is not a directory. Give --runs-dir, or collect rollouts first")
    runs = list_runs(options.runs_dir)
    if options.json:
        print(json.dumps([{**asdict(run), "updated": run.updated.isoformat()} for run in runs], indent=2))
        return 0

    from flows.commands.terminal import console
    from tasks.results.run_list import render_runs

    # run ids are there to be copied
    terminal = console()
    terminal.print(render_runs(runs, narrow=terminal.width < WIDE))
    return 0
