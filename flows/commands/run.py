"""``harvest run``: collect rollouts in this process, on Prefect's embedded server or the one that is set up."""

import contextlib
import logging
import os
import sys
import traceback
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

from flows.commands.command import command, exit_code_of, flag
from flows.commands.parameter_options import given_parameters, parameter_options
from flows.parameters import PARAMETERS, flow_parameters, run_config
from flows.terminal import print_error, print_json

if TYPE_CHECKING:
    from flows.live.lines import Lines
    from flows.server.server_loss import Outcome
    from tasks.plan.run_plan import RunPlan


@command(
    examples=(
        "harvest run --questions 2 --max-tokens 8",
        "harvest run --model Qwen/Qwen2.5-7B-Instruct --dataset openai/gsm8k",
        "harvest run --dataset my.jsonl --arms my.toml --scorer my_pkg.scores:exact",
        "harvest run --model 'checkpoints/step-*' --upload s3://bucket/rollouts",
    ),
    resumes=True,
)
@parameter_options(PARAMETERS)
@flag("--json", "print the summary as JSON")
@flag("--verbose", "show Prefect's log too")
def run(json: bool, verbose: bool, **given: Any) -> int:
    """Ask every question under every arm, score the answers, check them and store them. The same command again resumes
    an interrupted run and keeps its finished rollouts.
    """
    from flows.live.display import open_display, shown
    from tasks.process_limits import check_limits_of_run

    check_limits_of_run()
    # Prefect's log has no place above a panel
    with open_display(lines=json or verbose) as display:
        before = shown.set(display)
        try:
            return _run(given, display, json=json, verbose=verbose)
        finally:
            shown.reset(before)


def _run(given: dict[str, Any], display: "Lines", *, json: bool, verbose: bool) -> int:
    import datetime

    from tasks.gc_freeze import gc_frozen

    display.watch.enter("plan")

    with gc_frozen():
        from tasks.fleet.ray_address import on_nodes
        from tasks.generation.early_replicas import begun_early
        from tasks.node.prompt_check import check_rendered
        from tasks.plan.placeholders import CHECKPOINTS, fill_placeholders
        from tasks.user_paths import user_path

    asked = {CHECKPOINTS: "all", **given_parameters(given)}
    parameters = fill_placeholders(asked, datetime.date.today(), lambda told: print_error(f"warning: {told}"))
    runs_dir = user_path(parameters.setdefault("runs_dir", "runs"))
    plans = check_input(parameters, runs_dir)
    here = not on_nodes(parameters.get("nodes", 1), parameters.get("ray"))
    with begun_early(plans) if here else contextlib.nullcontext():
        # last, as it starts a process
        check_rendered(plans[0])
        return _collect(parameters, runs_dir, display, json=json, verbose=verbose)


def _collect(parameters: dict[str, Any], runs_dir: Path, display: "Lines", *, json: bool, verbose: bool) -> int:
    from flows.server.embedded_server import EmbeddedServer
    from flows.server.interruption import RESUMES, Interruption
    from flows.server.prefect_environment import configure_prefect, import_prefect_without_pandas
    from flows.server.server_loss import end_without_server, known_outcome, warn
    from tasks.gc_freeze import gc_frozen

    display.watch.enter("server")
    server = EmbeddedServer() if configure_prefect(runs_dir, verbose=verbose) else None
    interruption = Interruption(RESUMES, before_end=display.close)
    with gc_frozen():
        import_prefect_without_pandas()

        from prefect.settings import PREFECT_API_URL

        from flows.collect import collect_rollouts
        from tasks.errors import HarvestError
        from tasks.results.collected import Collected

    if server is not None:
        server.wait_until_ready()
    # Prefect writes each log message that a server does not take to the terminal
    logging.raiseExceptions = verbose
    end_without_server(partial(_end, json, display))
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
            return _show(json, display, error)
        warn(f"the Prefect server {url} does not know how the run ended: {type(error).__name__}: {error}")
        _end(json, display, outcome)
    return _show(json, display, Collected.from_json(result))


def _show(json: bool, display: "Lines", outcome: "Outcome") -> int:
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
    display.close()
    if json:
        print_json(outcome.to_json())
    else:
        print_summaries(outcome.reports)
    sys.stdout.flush()
    return 0


def _end(json: bool, display: "Lines", outcome: "Outcome") -> NoReturn:
    """End this process with the exit code of ``outcome``, and without Prefect's threads."""
    display.close()
    try:
        code = exit_code_of(partial(_show, json, display, outcome))
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
    from flows.plan_collection import plan_collection
    from flows.reporting.tracker_targets import check_trackers
    from tasks.comparison.baseline import check_baseline
    from tasks.errors import PreflightFailed, UploadError
    from tasks.fleet.ray_address import check_nodes
    from tasks.node.plan_here import plan_here
    from tasks.node.preflight import check_output_fits, check_settings
    from tasks.scoring.scorers import load_scorer
    from tasks.storage.destination import check_destination
    from tasks.storage.filesystems import check_url
    from tasks.user_paths import check_directory

    config = run_config(parameters)
    asked = flow_parameters(parameters)
    check_trackers(asked.log_to)
    plans = plan_collection(plan_here(config, runs_dir), asked)
    plan = plans[0]
    load_scorer(config.scorer)
    for each in plans:
        check_baseline(asked.baseline, each)
    # only the flow reads the credentials of a block, so without them only the form of the URL is checked
    check = check_destination if asked.aws_credentials_block is None else check_url
    check_nodes(config, plan, asked.nodes, asked.ray, asked.baseline)
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
