"""``harvest diff``: what one run gets right and another does not."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows.commands.block_option import add_block_option, chosen_transfer


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "diff",
        help="show which rollouts are right in one run and wrong in another",
        description="Compare the rewards of two scored runs over the same questions, whatever else differs. "
        "For a verdict on whether two runs are the same, see harvest compare.",
    )
    parser.add_argument("first", metavar="RUN_A", help="a run id, a run directory or a URL")
    parser.add_argument("second", metavar="RUN_B", help="a run id, a run directory or a URL")
    parser.add_argument("--arm", metavar="A", help="only this arm")
    parser.add_argument("--limit", type=int, metavar="N", default=10, help="list N flips (default 10)")
    add_block_option(parser)
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), metavar="DIR", help="where runs are kept")
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    from tasks.comparison.baseline import find_baseline
    from tasks.errors import ConfigError
    from tasks.results.run_diff import diff_runs

    if options.limit < 0:
        raise ConfigError(f"limit is {options.limit}; it must be at least 0")
    transfer = chosen_transfer(options, options.runs_dir)
    first, second = (find_baseline(name, options.runs_dir, transfer) for name in (options.first, options.second))
    diff = diff_runs(first, second, most=options.limit, arm=options.arm)
    if options.json:
        print(json.dumps(asdict(diff), indent=2))
        return 0

    from flows.commands.terminal import print_paged
    from tasks.results.run_diff import render_diff

    print_paged(render_diff(diff))
    return 0
