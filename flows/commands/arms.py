"""``harvest arms``: rank the arms of a run and test their differences."""

import argparse
from dataclasses import asdict
from typing import Any

from flows.commands.common_options import add_credentials_option, add_run_options, add_scores_option, chosen_transfer
from flows.terminal import print_json


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "arms",
        add_options=add_credentials_option,
        help="rank the arms of a run and say which differences are real",
        description="Rank the arms by mean reward, with paired tests, cost per correct rollout, agreement, and what "
        "an oracle or a majority vote over the arms would reach.",
    )
    add_run_options(parser, "run")
    add_scores_option(parser)
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    from tasks.comparison.baseline import find_baseline
    from tasks.results.arm_ranking import rank_arms
    from tasks.storage.score_sets import find_scores

    run_dir = find_baseline(options.run, options.runs_dir, chosen_transfer(options, options.runs_dir))
    report = rank_arms(run_dir, scores=find_scores(run_dir, options.scores))
    if options.json:
        print_json(asdict(report))
        return 0

    from flows.console import print_paged
    from tasks.results.arm_ranking_view import render_ranking

    print_paged(render_ranking(report))
    return 0
