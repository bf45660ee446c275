"""``harvest deploy``, ``worker``, ``serve`` and ``automations``: collect rollouts through a Prefect server."""

import argparse
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from flows.commands.common_options import path_option
from flows.commands.run import need_server
from flows.terminal import print_line

DEFAULT_FILE = Path("infra/prefect.yaml")
AUTOMATIONS_FILE = Path("infra/automations.yaml")
POOL = "harvest"


def add(commands: Any) -> None:
    deploy = commands.add_parser(
        "deploy",
        help="make the work pool and the deployments on a Prefect server",
        description="Make the work pool harvest, if it does not exist, and the deployments of the file. A worker of "
        "the pool runs one flow run at a time. Start harvest worker on every GPU node.",
    )
    deploy.add_argument("names", nargs="*", metavar="NAME", help="deployments of the file (default: all)")
    deploy.add_argument("--file", type=path_option, default=DEFAULT_FILE, metavar="F", help=f"default {DEFAULT_FILE}")
    deploy.set_defaults(execute=execute_deploy)

    worker = commands.add_parser(
        "worker",
        help="run deployed collections on this node, one at a time",
        description="Start a Prefect worker of the pool. Relative paths in a flow run's parameters start at "
        "HARVEST_HOME or, if it is not set, at this directory. A worker that is stopped ends its flow run in order; "
        "the run can be resumed later.",
    )
    worker.add_argument("--pool", default=POOL, metavar="P", help=f"default {POOL}")
    worker.add_argument("--name", metavar="NAME", help="name of this worker (default: this host's)")
    worker.set_defaults(execute=execute_worker)

    serve = commands.add_parser(
        "serve",
        add_options=_add_serve_options,
        help="serve one deployment from this process: no work pool, no worker",
        description="Make a deployment. This command executes its flow runs until it is stopped. The options are the "
        "deployment's default parameters; a flow run may have others.",
    )
    serve.set_defaults(execute=execute_serve)

    automations = commands.add_parser(
        "automations",
        help="install automations for flow runs that lose their process, fail or make no progress",
        description="Create or update the automations of the file on the Prefect server.",
    )
    automations.add_argument(
        "--notify", metavar="TYPE/NAME", help="block that sends notifications (default: none are sent)"
    )
    automations.add_argument(
        "--file", type=path_option, default=AUTOMATIONS_FILE, metavar="F", help="default %(default)s"
    )
    automations.set_defaults(execute=execute_automations)


def _add_serve_options(parser: argparse.ArgumentParser) -> None:
    from flows.parameters import PARAMETERS, add_options

    add_options(parser, PARAMETERS)
    parser.add_argument("--cron", metavar="C", help='when to run, such as "0 2 * * *" (default: only when asked)')
    parser.add_argument("--timezone", metavar="Z", help="time zone of --cron, such as Europe/Paris (default UTC)")
    parser.add_argument("--deployment", metavar="NAME", default="served", help="the deployment's name (default served)")


def execute_deploy(options: argparse.Namespace) -> int:
    from tasks.errors import ConfigError

    need_server()
    if not options.file.is_file():
        raise ConfigError(f"{options.file} does not exist. Run this in a checkout, or give --file")
    _make_pool()
    chosen = [part for name in options.names for part in ("--name", name)] or ["--all"]
    command = ["--no-prompt", "deploy", "--prefect-file", str(options.file), *chosen]
    return subprocess.run([sys.executable, "-m", "prefect", *command], check=False).returncode


def execute_worker(options: argparse.Namespace) -> int:
    need_server()

    from flows.server.worker import run_worker
    from tasks.fleet.node_status import NODE_NAME_VARIABLE

    name = options.name or socket.gethostname()
    os.environ.setdefault(NODE_NAME_VARIABLE, name)
    return run_worker(["--pool", options.pool, "--name", name, "--type", "process", "--limit", "1"])


def execute_serve(options: argparse.Namespace) -> int:
    from flows.parameters import flow_parameters, given_parameters, run_config
    from tasks.plan.placeholders import WITH_DATE
    from tasks.user_paths import user_path

    parameters = given_parameters(options)
    # what a date or a pattern will be is not known yet
    run_config({name: value for name, value in parameters.items() if name not in WITH_DATE})
    flow_parameters(parameters)
    need_server()
    # flow runs have other working directories than this command
    parameters["runs_dir"] = str(user_path(parameters.get("runs_dir", "runs")).resolve())

    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    from prefect.schedules import Cron
    from prefect.types.entrypoint import EntrypointType

    from flows.collect import collect_rollouts
    from tasks.errors import ConfigError

    zone = options.timezone or "UTC"
    try:
        ZoneInfo(zone)
        schedule = Cron(options.cron, timezone=zone) if options.cron else None
    except (ValueError, ZoneInfoNotFoundError) as error:
        raise ConfigError(
            f"--cron {options.cron!r} in the time zone {zone!r} is no schedule: {error.args[0]}. Give five fields, "
            'such as "0 2 * * *", and a time zone such as Europe/Paris'
        ) from error

    collect_rollouts.serve(
        name=options.deployment,
        schedule=schedule,
        parameters=parameters,
        enforce_parameter_schema=True,
        limit=1,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    return 0


def execute_automations(options: argparse.Namespace) -> int:
    need_server()

    from flows.server.automations import install_automations

    for name in install_automations(options.file, options.notify):
        print_line(f"installed {name}")
    return 0


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
