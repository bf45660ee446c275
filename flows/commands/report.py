"""``harvest report``: make a run's page and dataset card again."""

import webbrowser

import click

from flows.commands.command import command
from flows.commands.common_options import Runs, reads_runs
from flows.terminal import print_json, print_line


@command(examples=("harvest report latest --open", "harvest report 'step-*'"))
@click.option("--open", "open_page", is_flag=True, help="open the page in the browser")
@reads_runs("run", nargs=-1, scores=True, json="print path and size of the page as JSON")
def report(runs: Runs, run: tuple[str, ...], open_page: bool, scores: str | None, json: bool) -> int:
    """Make report.html, and the dataset card README.md, in the run directory from the run's files. Both are also made
    when a run ends. Of several runs, as of the checkpoints of one training, make one page beside the first that plots
    reward by step, per arm. A name with *, ? or [ means all runs with such an id.
    """
    from tasks.records import OWN_SCORES
    from tasks.results.report_page import publish_page
    from tasks.results.run_card import publish_card
    from tasks.results.step_report import matching_runs, publish_steps, read_steps
    from tasks.storage.score_sets import find_scores

    names = [found for name in run for found in matching_runs(name, runs.directory)]
    run_dirs = list(dict.fromkeys(map(runs.find, names)))
    sets = [find_scores(run_dir, scores) for run_dir in run_dirs]
    if len(run_dirs) == 1:
        path = publish_page(run_dirs[0], sets[0])
        if sets[0] == OWN_SCORES:
            publish_card(run_dirs[0])
    else:
        path = publish_steps(read_steps(run_dirs, sets), run_dirs[0].parent, by_runs=True)
    if json:
        print_json({"report": str(path), "bytes": path.stat().st_size}, indent=None)
    else:
        print_line(f"report: {path}")
    if open_page and not webbrowser.open(path.as_uri()):
        print_line("no browser was found; open the file yourself")
    return 0
