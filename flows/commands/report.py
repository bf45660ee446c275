"""``harvest report``: a run's page, made again."""

import argparse
import json
import webbrowser
from pathlib import Path
from typing import Any

from flows.commands.block_option import add_block_option, chosen_transfer


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "report",
        help="make report.html of a finished run: one page, nothing loaded from elsewhere",
        description="Make report.html, and the dataset card README.md, in the run directory from the run's files. "
        "Both are also made when a run ends.",
    )
    parser.add_argument("run", metavar="RUN", help="a run id, a run directory or a URL")
    parser.add_argument("--open", action="store_true", help="open it in the browser")
    add_block_option(parser)
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), metavar="DIR", help="where runs are kept")
    parser.add_argument("--json", action="store_true", help="print where it is as JSON")
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    from tasks.comparison.baseline import find_baseline
    from tasks.results.report_page import publish_page
    from tasks.results.run_card import publish_card

    run_dir = find_baseline(options.run, options.runs_dir, chosen_transfer(options, options.runs_dir))
    path = publish_page(run_dir)
    publish_card(run_dir)
    print(json.dumps({"report": str(path), "bytes": path.stat().st_size}) if options.json else f"report: {path}")
    if options.open and not webbrowser.open(path.as_uri()):
        print("no browser was found; open the file by hand")
    return 0
