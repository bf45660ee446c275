"""``harvest rm``: remove runs."""

import contextlib
import signal
from pathlib import Path
from typing import Any

import click

from flows.commands.command import command, flag
from flows.commands.common_options import Runs, reads_runs
from flows.terminal import print_json, print_line
from tasks.errors import ConfigError, RunLocked


@command(examples=("harvest rm RUN_ID", "harvest rm 'step-*' --yes"))
@flag("--yes", "do not ask")
@reads_runs("run", nargs=-1, urls=False, credentials=False)
def rm(runs: Runs, run: tuple[str, ...], yes: bool, json: bool) -> int:
    """Remove runs with all their files here; uploads stay. It asks first. A run on which a process works is refused. A
    name with *, ? or [ means all finished runs with such an id. A link to a run is refused.
    """
    from tasks.locks import run_lock, upload_lock
    from tasks.plan.run_directory import named_run, remove_run
    from tasks.records import RunPaths
    from tasks.results.run_state import run_state
    from tasks.results.step_report import matching_runs

    names = [found for name in run for found in matching_runs(name, runs.directory)]
    named = [named_run(name, runs.directory) for name in names]
    if links := [path for path in named if path.is_symlink()]:
        raise ConfigError(f"{links[0]} is a link to {links[0].resolve()}. Name that run, or remove the link with rm")
    run_dirs = list(dict.fromkeys(path.resolve() for path in named))
    told: dict[Path, str] = {}
    with contextlib.ExitStack() as locks:
        for run_dir in run_dirs:
            _check_is_run(run_dir)
            state = RunPaths(root=run_dir).state
            told[run_dir] = str(run_state(run_dir))
            locks.enter_context(run_lock(state / "lock", work="harvest rm"))
            locks.enter_context(upload_lock(state, exclusive=True, wait=_refuse))
        if not (yes or _confirm("remove " + ", ".join(f"{path}, which is {state}" for path, state in told.items()))):
            raise ConfigError("nothing is removed. Answer y, or give --yes where nobody can answer")
        for run_dir in run_dirs:
            remove_run(run_dir)
    if json:
        print_json({"removed": [str(run_dir) for run_dir in run_dirs]})
    else:
        print_line(f"removed {', '.join(map(str, run_dirs))}")
    return 0


def _confirm(question: str) -> bool:
    # Polars handles Ctrl-C as well, in a way that has the wait for an answer go on until Enter
    signal.siginterrupt(signal.SIGINT, True)
    try:
        return click.confirm(f"{question}?", err=True)
    except click.Abort as error:
        click.echo(err=True)
        # click makes the same of Ctrl-C and of the end of the input
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        return False


def _check_is_run(run_dir: Path) -> None:
    """Raise ConfigError unless a run made the directory: a model has a config.json as well."""
    from tasks.errors import DamagedRecord
    from tasks.files import read_record

    try:
        config = read_record(run_dir / "config.json", dict[str, Any])
    except DamagedRecord:
        config = None
    if "fingerprint" not in (config or {}) and not (run_dir / "state").is_dir():
        raise ConfigError(f"{run_dir} has a config.json that is not a run's. It is not removed; name a run")


def _refuse(seconds: float) -> None:
    raise RunLocked("the run is being uploaded. Wait for the upload, or end it")
