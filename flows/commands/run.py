"""``harvest run``: collect rollouts in this process, on Prefect's embedded server or the one that is set up."""

import argparse
import contextlib
import logging
import os
import sys
import traceback
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

from flows.terminal import print_error, print_json

if TYPE_CHECKING:
    from flows.server.server_loss import Outcome
    from tasks.plan.run_plan import RunPlan


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "run",
        add_options=_add_options,
        help="collect rollouts: generate, score, validate, upload",
        description="Ask every question under every arm, score the answers, check them and store them. The same "
        "command again resumes an interrupted run and keeps its finished rollouts.",
    )
    parser.set_defaults(execute=execute)


def _add_options(parser: argparse.ArgumentParser) -> None:
    from flows.parameters import PARAMETERS, add_options

    add_options(parser, PARAMETERS)
    parser.add_argument(
        "--forget-oom-rung",
        action="store_true",
        help="start with the profile's full batch, also after an earlier run ran out of memory",
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.add_argument("--verbose", action="store_true", help="show Prefect's log too")


def execute(options: argparse.Namespace) -> int:
    import datetime

    from tasks.process_limits import check_limits_of_run

    check_limits_of_run()

    from tasks.gc_freeze import gc_frozen

    with gc_frozen():
        from flows.parameters import given_parameters
        from tasks.fleet.ray_address import on_nodes
        from tasks.generation.early_replicas import begun_early
        from tasks.generation.rung_state import forget_rung
        from tasks.node.prompt_check import check_rendered
        from tasks.plan.placeholders import CHECKPOINTS, fill_placeholders
        from tasks.user_paths import user_path

    given = {CHECKPOINTS: "all", **given_parameters(options)}
    parameters = fill_placeholders(given, datetime.date.today(), lambda told: print_error(f"warning: {told}"))
    runs_dir = user_path(parameters.setdefault("runs_dir", "runs"))
    plans = check_input(parameters, runs_dir)
    here = not on_nodes(parameters.get("nodes", 1), parameters.get("ray"))
    with begun_early(plans) if here else contextlib.nullcontext():
        # last, as it starts a process
        check_rendered(plans[0])
        if options.forget_oom_rung:
            # engines begin where the first run that is left does
            for plan in plans:
                forget_rung(plan)
        return _collect(options, parameters, runs_dir)


def _collect(options: argparse.Namespace, parameters: dict[str, Any], runs_dir: Path) -> int:
    from flows.server.embedded_server import EmbeddedServer
    from flows.server.interruption import RESUMES, Interruption
    from flows.server.prefect_environment import configure_prefect, import_prefect_without_pandas
    from flows.server.server_loss import end_without_server, known_outcome, warn
    from tasks.gc_freeze import gc_frozen

    server = EmbeddedServer() if configure_prefect(runs_dir, verbose=options.verbose) else None
    interruption = Interruption(RESUMES)
    with gc_frozen():
        import_prefect_without_pandas()

        from prefect.settings import PREFECT_API_URL

        from flows.collect import collect_rollouts
        from flows.reporting.progress import console_output
        from tasks.errors import HarvestError
        from tasks.results.collected import Collected

    if server is not None:
        server.wait_until_ready()
    console_output.set(sys.stderr)
    # Prefect writes each log message that a server does not take to the terminal
    logging.raiseExceptions = options.verbose
    end_without_server(partial(_end, options))
    # the user at the terminal decides whether to try again
    try:
        result = cast(dict[str, Any], collect_rollouts.with_options(retries=0)(**parameters))
    except Exception as error:
        if interruption.was_signalled:
            # Prefect made another error of the interrupt
            raise KeyboardInterrupt from None
        outcome, url = known_outcome(), PREFECT_API_URL.value()
        if outcome is None and not isinstance(error, HarvestError):
            raise HarvestError(
                f"Prefect cannot begin the flow run on the server {url}: {error}. Check that it runs, or name another "
                "with PREFECT_API_URL"
            ) from error
        if outcome is None or outcome is error:
            return _show(options, error)
        warn(f"the Prefect server {url} does not know how the run ended: {type(error).__name__}: {error}")
        _end(options, outcome)
    return _show(options, Collected.from_json(result))


def _show(options: argparse.Namespace, outcome: "Outcome") -> int:
    from httpx import HTTPError

    from flows.reporting.summary_view import print_summaries
    from tasks.errors import HarvestError

    if isinstance(outcome, HTTPError):
        # several nodes are started through the server
        raise HarvestError(
            f"the Prefect server failed during the run: {outcome}. Run the same command again when it answers; "
            "finished rollouts are kept"
        ) from outcome
    if isinstance(outcome, Exception):
        raise outcome
    if options.json:
        print_json(outcome.to_json())
    else:
        print_summaries(outcome.reports)
    sys.stdout.flush()
    return 0


def _end(options: argparse.Namespace, outcome: "Outcome") -> NoReturn:
    """End this process with the exit code of ``outcome``, and without Prefect's threads."""
    from flows.commands.cli import exit_code_of

    try:
        code = exit_code_of(partial(_show, options, outcome))
    except Exception:
        traceback.print_exc()
        code = 1
    sys.stderr.flush()
    os._exit(code)


def check_input(parameters: dict[str, Any], runs_dir: Path) -> "tuple[RunPlan, ...]":
    """Return the plan of each run of a collection.

    Needs neither Prefect, whose import takes seconds, nor a run directory. Raises ConfigError for bad input,
    PreflightFailed for a destination or a disk that cannot be used.
    """
    from flows.parameters import flow_parameters, run_config
    from flows.plan_collection import plan_collection
    from tasks.comparison.baseline import check_baseline
    from tasks.errors import PreflightFailed, UploadError
    from tasks.fleet.ray_address import check_nodes, on_nodes
    from tasks.fleet.replica_span import check_span
    from tasks.node.plan_here import check_profile_of_nodes, plan_here
    from tasks.node.preflight import check_output_fits, check_settings
    from tasks.scoring.scorers import load_scorer
    from tasks.storage.destination import check_destination
    from tasks.storage.filesystems import check_url
    from tasks.user_paths import check_directory

    config = run_config(parameters)
    asked = flow_parameters(parameters)
    plans = plan_collection(plan_here(config, runs_dir), asked)
    plan = plans[0]
    load_scorer(config.scorer)
    for each in plans:
        check_baseline(asked.baseline, each)
    # only the flow reads the credentials of a block, so without them only the form of the URL is checked
    check = check_destination if asked.aws_credentials_block is None else check_url
    check_nodes(asked.nodes, asked.ray, asked.baseline)
    check_span(plan.profile, asked.nodes, asked.ray)
    if on_nodes(asked.nodes, asked.ray):
        check_profile_of_nodes(config, plan)
    if asked.upload is not None:
        try:
            check(asked.upload)
        except UploadError as error:
            raise PreflightFailed(str(error)) from None
    check_settings(plan)
    check_output_fits(*plans)
    for each in plans:
        check_directory(each.paths.state, "the run's directory")
    return plans


def need_server() -> None:
    """Raise ConfigError unless a Prefect server is set up that outlives this command.

    Raises HarvestError when that server does not answer.
    """
    from flows.server.prefect_environment import import_prefect_without_pandas, set_prefect_defaults
    from tasks.errors import ConfigError, HarvestError

    set_prefect_defaults()
    import_prefect_without_pandas()
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    if not PREFECT_API_URL.value():
        raise ConfigError(
            "no Prefect server is set up. Start one with prefect server start, and set "
            "PREFECT_API_URL=http://127.0.0.1:4200/api here and for the workers"
        )
    try:
        with get_client(sync_client=True) as client:
            client.hello()
    except Exception as error:
        raise HarvestError(
            f"the Prefect server {PREFECT_API_URL.value()} cannot be used: {error}. Check that it runs, or name "
            "another with PREFECT_API_URL"
        ) from error
