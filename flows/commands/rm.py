"""``harvest rm``: remove runs."""

import contextlib
import shutil

import click

from flows.commands.command import command, flag
from flows.commands.common_options import Runs, reads_runs
from flows.terminal import print_json, print_line
from tasks.errors import ConfigError, RunLocked, StorageError


@command(examples=("harvest rm RUN_ID", "harvest rm 'step-*' --yes"))
@flag("--yes", "do not ask")
@reads_runs("run", nargs=-1, urls=False, credentials=False)
def rm(runs: Runs, run: tuple[str, ...], yes: bool, json: bool) -> int:
    """Remove runs with all their files here; uploads stay. It asks first. A run on which a process works is refused. A
    name with *, ? or [ means all finished runs with such an id.
    """
    from tasks.locks import run_lock, upload_lock
    from tasks.records import RunPaths
    from tasks.results.step_report import matching_runs

    names = [found for name in run for found in matching_runs(name, runs.directory)]
    run_dirs = list(dict.fromkeys(map(runs.find, names)))
    with contextlib.ExitStack() as locks:
        for run_dir in run_dirs:
            state = RunPaths(root=run_dir).state
            locks.enter_context(run_lock(state / "lock"))
            locks.enter_context(upload_lock(state, exclusive=True, wait=_refuse))
        asked = f"remove {', '.join(map(str, run_dirs))}?"
        try:
            if not (yes or click.confirm(asked, err=True)):
                raise click.Abort
        except click.Abort:
            raise ConfigError("nothing is removed. Answer y, or give --yes where nobody can answer") from None
        for run_dir in run_dirs:
            try:
                shutil.rmtree(run_dir)
            except OSError as error:
                raise StorageError(f"{run_dir} cannot be removed: {error}. Correct its permissions") from None
    if json:
        print_json({"removed": [str(run_dir) for run_dir in run_dirs]})
    else:
        print_line(f"removed {', '.join(map(str, run_dirs))}")
    return 0


def _refuse(seconds: float) -> None:
    raise RunLocked("the run is being uploaded. Wait for the upload, or end it")
