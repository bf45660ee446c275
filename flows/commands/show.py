"""``harvest show``: print rollouts of a run."""

import argparse
import sys
from itertools import islice
from typing import Any

from flows.commands.common_options import add_credentials_option, add_run_options, add_scores_option, chosen_transfer
from flows.terminal import print_json

DEFAULT_LIMIT = 20


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "show",
        add_options=add_credentials_option,
        help="print rollouts of a run: prompt, completion, score",
        description="Print rollouts of a run, finished or not, in order. On a terminal the output is paged.",
    )
    add_run_options(parser, "run", json_help="print one JSON object per line and rollout")
    parser.add_argument("--arm", metavar="A", help="only this arm")
    parser.add_argument("--example", metavar="ID", help="only this question")
    outcome = parser.add_mutually_exclusive_group()
    for name, text in (("right", "right answers"), ("wrong", "wrong answers"), ("error", "error rows")):
        outcome.add_argument(f"--{name}", dest="outcome", action="store_const", const=name, help=f"only {text}")
    parser.add_argument("--truncated", action="store_true", help="only rollouts that max_tokens cut off")
    parser.add_argument(
        "--limit", type=int, metavar="N", default=DEFAULT_LIMIT, help=f"at most N (default {DEFAULT_LIMIT}; 0 is all)"
    )
    add_scores_option(parser)
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    from tasks.comparison.baseline import find_baseline
    from tasks.errors import ConfigError
    from tasks.results.rollout_search import RolloutFilter, count_rollouts, find_rollouts
    from tasks.storage.score_sets import find_scores

    if options.limit < 0:
        raise ConfigError(f"limit is {options.limit}; it must be at least 1, or 0 for all")
    run_dir = find_baseline(options.run, options.runs_dir, chosen_transfer(options, options.runs_dir))
    wanted = RolloutFilter(
        arm=options.arm, example=options.example, outcome=options.outcome, truncated=options.truncated
    )
    scores = find_scores(run_dir, options.scores)
    rollouts = islice(find_rollouts(run_dir, wanted, scores), min(options.limit, sys.maxsize) or None)
    if options.json:
        for rollout in rollouts:
            print_json(rollout, indent=None)
        return 0

    from flows.console import print_paged
    from tasks.results.rollout_search import render_rollouts

    chosen = list(rollouts)
    print_paged(render_rollouts(chosen, shown=len(chosen), found=count_rollouts(run_dir, wanted, scores)))
    return 0
