"""``harvest deploy``, ``worker``, ``serve`` and ``automations``: collect rollouts through a Prefect server."""

import asyncio
import logging
import os
import shlex
import socket
import sys
import warnings
from pathlib import Path
from typing import Any

import click

from flows.commands.command import command, flag
from flows.commands.common_options import UserPath
from flows.commands.parameter_options import given_parameters, parameter_options
from flows.commands.run import need_server
from flows.parameters import PARAMETERS, flow_parameters, run_config
from flows.terminal import print_line
from profiles.nearest import nearest_files
from tasks.errors import ConfigError

POOL = "harvest"


@command(examples=("harvest deploy", "harvest deploy manual demo", "harvest deploy nightly-h100x8 --activate"))
@click.argument("names", metavar="[NAME]...", nargs=-1, help="deployments of the file; by default all")
@click.option("--file", type=UserPath(), metavar="F", help="the deployments; by default those of the project")
@flag("--activate", "start their schedules; a new schedule is paused otherwise")
def deploy(names: tuple[str, ...], file: Path | None, activate: bool) -> int:
    """Make the work pool harvest, if it does not exist, and the deployments of the file. A worker of the pool runs one
    flow run at a time. Start harvest worker on every GPU node. What is active on the server stays active.
    """
    need_server()

    from flows.server.schedules import activate_schedules, active_schedules, deployment_names
    from flows.server.shipped_files import shipped_file

    file = file or shipped_file("prefect.yaml")
    if not file.is_file():
        raise ConfigError(f"{file} does not exist.{nearest_files(file)} Give another file with --file")
    known = deployment_names(file)
    active = active_schedules(known)
    _make_pool()
    chosen = [part for name in names for part in ("--name", name)] or ["--all"]
    command = ["--no-prompt", "deploy", "--prefect-file", str(file), *chosen]
    if code := _prefect(command):
        return code
    print_line(f"deployed from {file}")
    for schedule in activate_schedules(known, active, (names or ("*",)) if activate else ()):
        print_line(f"paused: {schedule}. harvest deploy {schedule.deployment} --activate starts it")
    return 0


def _prefect(words: list[str]) -> int:
    """Run Prefect's own command in this process, which has imported most of what it needs; return its exit code."""
    from prefect.cli import app

    sys.argv = ["prefect", *words]
    try:
        app()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(bool(ended.code))
    return 0


@command(examples=("harvest worker",))
@click.option("--pool", default=POOL, metavar="P", help="the work pool")
@click.option("--name", metavar="NAME", help="name of this worker; by default this host's")
def worker(pool: str, name: str | None) -> int:
    """Start a Prefect worker of the pool. Relative paths in a flow run's parameters start at HARVEST_HOME or, if it is
    not set, at this directory. A worker that is stopped ends its flow run in order; the run can be resumed later.
    """
    need_server()
    if pool == POOL:
        _make_pool()
    else:
        check_pool(pool)

    from flows.server.worker import run_worker
    from tasks.fleet.node_status import NODE_NAME_VARIABLE

    name = name or socket.gethostname()
    os.environ.setdefault(NODE_NAME_VARIABLE, name)
    return run_worker(["--pool", pool, "--name", name, "--type", "process", "--limit", "1"])


@command(examples=('harvest serve --model Qwen/Qwen2.5-7B-Instruct --cron "0 2 * * *"',))
@click.option("--cron", metavar="C", help='when to run, such as "0 2 * * *"; by default only when asked')
@click.option("--timezone", default="UTC", metavar="Z", help="time zone of --cron, such as Europe/Paris")
@click.option("--deployment", default="served", metavar="NAME", help="the deployment's name")
@parameter_options(PARAMETERS)
def serve(cron: str | None, timezone: str, deployment: str, **given: Any) -> int:
    """Make a deployment, and execute its flow runs until this command is stopped. The options are the deployment's
    default parameters; a flow run may have others.
    """
    from flows.server.worker import end_orderly
    from tasks.plan.placeholders import WITH_DATE
    from tasks.user_paths import user_path

    parameters = given_parameters(given)
    # what a date or a pattern will be is not known yet
    run_config({name: value for name, value in parameters.items() if name not in WITH_DATE})
    flow_parameters(parameters)
    end_orderly()
    need_server()
    # flow runs have other working directories than this command
    parameters["runs_dir"] = str(user_path(parameters.get("runs_dir", "runs")).resolve())

    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    from prefect.schedules import Cron
    from prefect.types.entrypoint import EntrypointType

    from flows.collect import collect_rollouts

    try:
        ZoneInfo(timezone)
        schedule = Cron(cron, timezone=timezone) if cron else None
    except (ValueError, ZoneInfoNotFoundError) as error:
        raise ConfigError(
            f"--cron {cron!r} in the time zone {timezone!r} is no schedule: {error.args[0]}. Give five fields, "
            'such as "0 2 * * *", and a time zone such as Europe/Paris'
        ) from error

    # Prefect's own handler of SIGTERM makes it, and then exits, which ends the runner in order
    warnings.filterwarnings("ignore", "coroutine 'Runner.astop' was never awaited", RuntimeWarning)
    # the same exit cancels connections of flow runs, which asyncio of Python 3.11 shows as errors
    logging.getLogger("asyncio").addFilter(_is_no_cancellation)
    collect_rollouts.serve(
        name=deployment,
        schedule=schedule,
        parameters=parameters,
        enforce_parameter_schema=True,
        limit=1,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    return 0


def _is_no_cancellation(record: logging.LogRecord) -> bool:
    return not (record.exc_info and record.exc_info[0] is asyncio.CancelledError)


@command(examples=("harvest automations --notify slack-webhook/team",))
@click.option("--notify", metavar="TYPE/NAME", help="block that sends notifications; by default none are sent")
@click.option("--file", type=UserPath(), metavar="F", help="the automations; by default those of the project")
def automations(notify: str | None, file: Path | None) -> int:
    """Create or update the automations of the file on the Prefect server."""
    need_server()

    from flows.server.automations import install_automations
    from flows.server.shipped_files import shipped_file

    done = install_automations(file or shipped_file("automations.yaml"), notify)
    for name in done.installed:
        print_line(f"installed {name}")
    for name in done.left_out:
        print_line(f"not installed {name}: it sends a notification, and --notify names no block to send it with")
    return 0


def check_pool(name: str) -> None:
    """Raise ConfigError unless the server has the work pool, and its flow runs are processes."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            kind = client.read_work_pool(name).type
        except ObjectNotFound:
            known = ", ".join(sorted(pool.name for pool in client.read_work_pools())) or "none"
            raise ConfigError(
                f"pool is {name!r}, and the Prefect server has no work pool of this name; it has {known}. Give one of "
                f"those, or make it: prefect work-pool create --type process {shlex.quote(name)}"
            ) from None
    if kind != "process":
        raise ConfigError(
            f"pool is {name!r}, a work pool of the type {kind}; harvest worker takes one of the type process"
        )


def _make_pool() -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectAlreadyExists

    pool = WorkPoolCreate(name=POOL, type="process", concurrency_limit=1, description="Collections of Rollout Harvest")
    with get_client(sync_client=True) as client:
        try:
            client.create_work_pool(pool)
        except ObjectAlreadyExists:
            # Prefect's own command makes pools without a limit; a user chose any other limit
            if client.read_work_pool(POOL).concurrency_limit is None:
                client.update_work_pool(POOL, WorkPoolUpdate(concurrency_limit=pool.concurrency_limit))
