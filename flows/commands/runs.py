"""``harvest runs``: list the runs of a directory."""

from dataclasses import asdict

from flows.commands.command import command
from flows.commands.common_options import Runs, reads_runs

WIDE = 130
"""A terminal of at least this many characters shows every column."""


@command(examples=("harvest runs --json | jq '.[] | select(.state == \"failed\") | .reason'",))
@reads_runs(credentials=False)
def runs(runs: Runs, json: bool) -> int:
    """List runs: state and why, counts, mean reward, equivalence verdict, size; the last changed first. States are
    planned, running, interrupted, failed, finished and uploaded.
    """
    from flows.console import console, print_result
    from tasks.errors import ConfigError
    from tasks.results.run_list import list_runs, render_runs

    if not runs.directory.is_dir():
        raise ConfigError(f"{runs.directory} is not a directory. Give --runs-dir, or collect rollouts first")
    found = list_runs(runs.directory)
    value = [{**asdict(run), "updated": run.updated.isoformat()} for run in found]
    # a narrow terminal leaves out columns and never cuts a run id, because users copy ids
    return print_result(value, lambda: render_runs(found, narrow=console().width < WIDE), json=json)
