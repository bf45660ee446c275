"""``harvest report``: make a run's page and dataset card again."""

import argparse
import webbrowser
from typing import Any

from flows.commands.common_options import add_credentials_option, add_run_options, chosen_transfer
from flows.terminal import print_json, print_line


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "report",
        add_options=add_credentials_option,
        help="make report.html of a finished run: one self-contained page",
        description="Make report.html, and the dataset card README.md, in the run directory from the run's files. "
        "Both are also made when a run ends.",
    )
    add_run_options(parser, "run", json_help="print path and size of the page as JSON")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    from tasks.comparison.baseline import find_baseline
    from tasks.results.report_page import publish_page
    from tasks.results.run_card import publish_card

    run_dir = find_baseline(options.run, options.runs_dir, chosen_transfer(options, options.runs_dir))
    path = publish_page(run_dir)
    publish_card(run_dir)
    if options.json:
        print_json({"report": str(path), "bytes": path.stat().st_size}, indent=None)
    else:
        print_line(f"report: {path}")
    if options.open and not webbrowser.open(path.as_uri()):
        print_line("no browser was found; open the file yourself")
    return 0
