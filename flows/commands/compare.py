"""``harvest compare``: is one run's output the same as another's, and in which sense?"""

import argparse
import json
from pathlib import Path
from typing import Any

from flows.commands.block_option import add_block_option, chosen_transfer


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "compare",
        help="compare a run with a baseline",
        description="Compare two runs rollout by rollout: bitwise, numerically, statistically. Exit code 3 when the "
        "verdict is below --require, 2 when the runs cannot be compared.",
    )
    parser.add_argument("baseline", metavar="BASELINE", help="a run id, a run directory or a URL")
    parser.add_argument("candidate", metavar="CANDIDATE", help="a run id, a run directory or a URL")
    parser.add_argument(
        "--require",
        choices=("bitwise", "numerical", "statistical"),
        default="statistical",
        help="weakest verdict that passes (default statistical)",
    )
    parser.add_argument(
        "--epsilon", type=float, metavar="E", help="largest difference of the mean reward that counts as none"
    )
    add_block_option(parser)
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), metavar="DIR", help="where runs are kept")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    from flows.commands.terminal import console
    from tasks.comparison.baseline import find_baseline
    from tasks.comparison.equivalence import DEFAULT_EPSILON, compare_runs
    from tasks.comparison.equivalence_view import render_equivalence
    from tasks.comparison.noise_floor import find_noise_floor

    transfer = chosen_transfer(options, options.runs_dir)
    baseline = find_baseline(options.baseline, options.runs_dir, transfer)
    candidate = find_baseline(options.candidate, options.runs_dir, transfer)
    report = compare_runs(
        baseline,
        candidate,
        epsilon=DEFAULT_EPSILON if options.epsilon is None else options.epsilon,
        noise_floor=find_noise_floor(candidate, options.runs_dir, candidate.parent),
        require=options.require,
    )
    if options.json:
        print(json.dumps(report.to_json(), indent=2, ensure_ascii=False))
    else:
        console().print(render_equivalence(report))
    report.raise_if_below(options.require)
    return 0
