"""``harvest report``: make a run's page and dataset card again."""

import argparse
import webbrowser
from typing import Any

from flows.commands.common_options import add_credentials_option, add_run_options, add_scores_option, chosen_transfer
from flows.terminal import print_json, print_line


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "report",
        add_options=add_credentials_option,
        help="make report.html of a finished run, or of several runs the page of rewards by step",
        description="Make report.html, and the dataset card README.md, in the run directory from the run's files. "
        "Both are also made when a run ends. Of several runs, as of the checkpoints of one training, make one page "
        "beside the first that plots reward by step, per arm.",
    )
    parser.add_argument(
        "run",
        nargs="+",
        metavar="RUN",
        help="a run id, a run directory or a URL; with *, ? or [, all runs with such an id",
    )
    add_run_options(parser, json_help="print path and size of the page as JSON")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    add_scores_option(parser)
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    from tasks.comparison.baseline import find_baseline
    from tasks.records import OWN_SCORES
    from tasks.results.report_page import publish_page
    from tasks.results.run_card import publish_card
    from tasks.results.step_report import matching_runs, publish_steps, read_steps
    from tasks.storage.score_sets import find_scores

    names = [found for name in options.run for found in matching_runs(name, options.runs_dir)]
    transfer = chosen_transfer(options, options.runs_dir)
    run_dirs = list(dict.fromkeys(find_baseline(name, options.runs_dir, transfer) for name in names))
    if len(run_dirs) == 1:
        scores = find_scores(run_dirs[0], options.scores)
        path = publish_page(run_dirs[0], scores)
        if scores == OWN_SCORES:
            publish_card(run_dirs[0])
    else:
        scored = [find_scores(run_dir, options.scores) for run_dir in run_dirs]
        path = publish_steps(read_steps(run_dirs, scored), run_dirs[0].parent)
    if options.json:
        print_json({"report": str(path), "bytes": path.stat().st_size}, indent=None)
    else:
        print_line(f"report: {path}")
    if options.open and not webbrowser.open(path.as_uri()):
        print_line("no browser was found; open the file yourself")
    return 0
