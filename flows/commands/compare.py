"""``harvest compare``: say whether the outputs of two runs are the same, and in which sense."""

import argparse
from typing import Any

from flows.commands.common_options import add_run_options, add_scores_option, chosen_transfer
from flows.terminal import print_json


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "compare",
        add_options=_add_options,
        help="compare a run with a baseline",
        description="Compare two runs rollout by rollout: bitwise, numerically, statistically. Exit code 3 when the "
        "verdict is below --require, 2 when the runs cannot be compared.",
    )
    add_run_options(parser, "baseline", "candidate")
    add_scores_option(parser)
    parser.set_defaults(execute=execute)


def _add_options(parser: argparse.ArgumentParser) -> None:
    from flows.parameters import add_options

    add_options(parser, ("require", "epsilon", "aws_credentials_block"))


def execute(options: argparse.Namespace) -> int:
    from flows.console import console
    from flows.parameters import FlowParameters
    from tasks.comparison.baseline import find_baseline
    from tasks.comparison.equivalence import compare_runs
    from tasks.comparison.equivalence_view import render_equivalence
    from tasks.comparison.noise_floor import find_noise_floor
    from tasks.storage.score_sets import find_scores

    defaults = FlowParameters()
    require = options.require or defaults.require
    transfer = chosen_transfer(options, options.runs_dir)
    baseline = find_baseline(options.baseline, options.runs_dir, transfer)
    candidate = find_baseline(options.candidate, options.runs_dir, transfer)
    report = compare_runs(
        baseline,
        candidate,
        epsilon=defaults.epsilon if options.epsilon is None else options.epsilon,
        noise_floor=find_noise_floor(candidate, options.runs_dir, candidate.parent),
        require=require,
        scores=(find_scores(baseline, options.scores), find_scores(candidate, options.scores)),
    )
    if options.json:
        print_json(report.to_json())
    else:
        console().print(render_equivalence(report))
    report.raise_if_below(require)
    return 0
