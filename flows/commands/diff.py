"""``harvest diff``: list the rollouts that are right in one run and wrong in another."""

import argparse
from dataclasses import asdict
from typing import Any

from flows.commands.common_options import add_credentials_option, add_run_options, add_scores_option, chosen_transfer
from flows.terminal import print_json


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "diff",
        add_options=add_credentials_option,
        help="show which rollouts are right in one run and wrong in another",
        description="Compare the rewards of two scored runs over the same questions, whatever else differs. "
        "For a verdict on whether two runs are the same, see harvest compare.",
    )
    add_run_options(parser, "run_a", "run_b")
    parser.add_argument("--arm", metavar="A", help="only this arm")
    parser.add_argument("--limit", type=int, metavar="N", default=10, help="list at most N rollouts (default 10)")
    add_scores_option(parser)
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    from tasks.comparison.baseline import find_baseline
    from tasks.errors import ConfigError
    from tasks.results.run_diff import diff_runs
    from tasks.storage.score_sets import find_scores

    if options.limit < 0:
        raise ConfigError(f"limit is {options.limit}; it must be at least 0")
    transfer = chosen_transfer(options, options.runs_dir)
    first, second = (find_baseline(name, options.runs_dir, transfer) for name in (options.run_a, options.run_b))
    scores = (find_scores(first, options.scores), find_scores(second, options.scores))
    diff = diff_runs(first, second, most=options.limit, arm=options.arm, scores=scores)
    if options.json:
        print_json(asdict(diff))
        return 0

    from flows.console import print_paged
    from tasks.results.run_diff import render_diff

    print_paged(render_diff(diff))
    return 0
