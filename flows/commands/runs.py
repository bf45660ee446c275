"""``harvest runs``: list the runs of a directory."""

import argparse
from dataclasses import asdict
from typing import Any

from flows.commands.common_options import add_run_options
from flows.terminal import print_json

WIDE = 130
"""A terminal of at least this many characters shows every column."""


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "runs", help="list runs: state, counts, mean reward, equivalence verdict, size", description="List runs."
    )
    add_run_options(parser)
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    from tasks.errors import ConfigError
    from tasks.results.run_list import list_runs

    if not options.runs_dir.is_dir():
        raise ConfigError(f"{options.runs_dir} is not a directory. Give --runs-dir, or collect rollouts first")
    runs = list_runs(options.runs_dir)
    if options.json:
        print_json([{**asdict(run), "updated": run.updated.isoformat()} for run in runs])
        return 0

    from flows.console import console
    from tasks.results.run_list import render_runs

    # a narrow terminal leaves out columns and never cuts a run id, because users copy ids
    terminal = console()
    terminal.print(render_runs(runs, narrow=terminal.width < WIDE))
    return 0
