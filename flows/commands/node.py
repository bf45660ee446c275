"""``harvest preflight`` and ``harvest plan``: check a node and plan the memory of a run, without loading a model."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.commands.common_options import RUNS_DIR, chosen_transfer
from flows.terminal import print_error, print_json, print_line

if TYPE_CHECKING:
    from tasks.generation.warm_start import WarmStart
    from tasks.plan.run_plan import RunPlan

_PREFLIGHT_PARAMETERS = ("profile", "model", "engine", "upload", "aws_credentials_block", "runs_dir")


def add(commands: Any) -> None:
    preflight = commands.add_parser(
        "preflight",
        add_options=_add_preflight_options,
        help="check this node for a profile: GPUs, memory, disk, model files, destination",
    )
    preflight.set_defaults(execute=execute_preflight)
    plan = commands.add_parser(
        "plan",
        add_options=_add_plan_options,
        help="memory plan and advice for a run: what fits, and what would make it faster",
    )
    plan.set_defaults(execute=execute_plan)


def _add_preflight_options(parser: argparse.ArgumentParser) -> None:
    from flows.parameters import RUN_PARAMETERS, add_options

    add_options(parser, _PREFLIGHT_PARAMETERS)
    parser.add_argument("--smoke", action="store_true", help="also compute something on every GPU")
    parser.add_argument(
        "--warm",
        action="store_true",
        help="then start an engine as a run with these options would, so that what it compiles is in the cache; the "
        "options below are those of the run",
    )
    parser.add_argument("--json", action="store_true", help="print as JSON")
    add_options(parser, [name for name in RUN_PARAMETERS if name not in _PREFLIGHT_PARAMETERS])


def _add_plan_options(parser: argparse.ArgumentParser) -> None:
    from flows.parameters import RUN_PARAMETERS, add_options

    add_options(parser, RUN_PARAMETERS)
    parser.add_argument("--after", metavar="RUN", help="take completion lengths and truncation from this finished run")
    parser.add_argument("--json", action="store_true", help="print as JSON")


def execute_preflight(options: argparse.Namespace) -> int:
    from flows.parameters import PARAMETERS
    from profiles.load import load_arms
    from tasks.errors import HarvestError
    from tasks.node.node_checks import check_node
    from tasks.node.plan_here import profile_here
    from tasks.node.preflight_view import render_preflight
    from tasks.user_paths import user_path

    runs_dir = user_path(RUNS_DIR if options.runs_dir is None else options.runs_dir)
    given = _given(options)
    run = _run_to_warm(options, given, runs_dir)
    model = given.get("model")
    profile_name = options.profile or PARAMETERS["profile"].default
    chosen = profile_here(profile_name, model, engine=options.engine)
    profile = chosen.profile if run is None else run.profile
    _tell(chosen.notes if run is None else run.choices)
    report = check_node(
        profile,
        model_path=_model_path(model or profile.model),
        runs_dir=runs_dir,
        upload_url=options.upload,
        transfer=chosen_transfer(options, runs_dir),
        smoke=options.smoke,
        arms=len(load_arms(None).arms),
    )
    shown = report.to_json()
    if run is None or report.failed or not options.json:
        _print(options, shown, lambda: render_preflight(report))
    try:
        report.raise_if_failed()
    except HarvestError as error:
        return error.exit_code  # the table shows what failed
    if run is not None:
        started = _warm(run)
        shown["warm"] = started and asdict(started)
        _print(options, shown, lambda: _in_words(started))
    return 0


def _run_to_warm(options: argparse.Namespace, given: dict[str, Any], runs_dir: Path) -> "RunPlan | None":
    """Return the plan of the run whose caches --warm fills. Raises ConfigError, also for its options without --warm."""
    from flows.parameters import PARAMETERS, run_config
    from tasks.errors import ConfigError

    if not options.warm:
        if others := [name for name in given if name not in _PREFLIGHT_PARAMETERS]:
            option = PARAMETERS[others[0]].options[0]
            raise ConfigError(f"{option} is for --warm alone, which starts an engine as the run would. Add --warm")
        return None
    import os

    from tasks.fleet.replica_span import check_span
    from tasks.generation.warm_start import check_caches
    from tasks.node.plan_here import plan_here
    from tasks.node.preflight import check_settings
    from tasks.node.prompt_check import check_rendered
    from tasks.plan.policies import plan_policies

    run, *_ = plan_policies(plan_here(run_config(given), runs_dir))
    check_span(run.profile)
    check_settings(run)
    check_rendered(run)
    check_caches(os.environ)
    return run


def _warm(run: "RunPlan") -> "WarmStart | None":
    """Fill the caches for ``run``; None when its engines compile nothing. Raises EngineError."""
    from tasks.generation.warm_start import has_nothing_to_warm, warm_caches
    from tasks.node.gpu_lock import lock_gpus
    from tasks.node.gpu_selection import gpus_of_run

    if has_nothing_to_warm(run):
        return None
    with lock_gpus(gpus_of_run(run), run_id=run.run_id, on_wait=print_error):
        return warm_caches(run)


def _in_words(started: "WarmStart | None") -> str:
    from tasks.node.engine_caches import START_WORDS

    if started is None:
        return "nothing to warm: on a CPU with enforce_eager an engine compiles nothing"
    return f"the engine was ready after {started.seconds:.1f} s ({START_WORDS[started.start_kind]}); {started.caches}"


def execute_plan(options: argparse.Namespace) -> int:
    from flows.parameters import run_config
    from tasks.node.capacity_plan import plan_capacity
    from tasks.node.plan_here import plan_here
    from tasks.node.preflight_view import render_plan
    from tasks.plan.policies import plan_policies
    from tasks.user_paths import user_path

    runs_dir = user_path(RUNS_DIR if options.runs_dir is None else options.runs_dir)
    run, *_ = plan_policies(plan_here(run_config(_given(options)), runs_dir))
    _tell(run.choices)
    length, truncation = _observed(options.after, runs_dir)
    capacity = plan_capacity(run, completion_length=length, truncation_rate=truncation)
    _print(options, asdict(capacity), lambda: render_plan(capacity.plan, capacity.advice, capacity.warnings))
    return 0


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """Return the given parameters with dates and patterns filled in; of several checkpoints the newest is meant."""
    import datetime

    from flows.parameters import given_parameters
    from tasks.plan.placeholders import fill_placeholders

    return fill_placeholders(given_parameters(options), datetime.date.today())


def _model_path(name: str | None) -> Path | None:
    """Return the directory of the model; a preflight check reports what is wrong in it."""
    from tasks.plan.model_source import locate_model

    return None if name is None else locate_model(name)[0]


def _observed(name: str | None, runs_dir: Path) -> tuple[float | None, float | None]:
    """Return the mean completion length in tokens and the truncation rate of the run ``name``; None without a name."""
    if name is None:
        return None, None
    import polars as pl

    from tasks.plan.run_directory import find_run
    from tasks.storage.run_files import scan_shards

    rollouts = scan_shards(find_run(name, runs_dir), "rollouts").filter(pl.col("error").is_null())
    means = rollouts.select(pl.col("num_completion_tokens").mean(), pl.col("is_truncated").mean()).collect()
    length, truncated = means.row(0)
    return length, truncated


def _tell(notes: Sequence[str]) -> None:
    for note in notes:
        print_line(note, sys.stderr)


def _print(options: argparse.Namespace, value: dict[str, Any], view: Any) -> None:
    if options.json:
        print_json(value)
        return
    from flows.console import console

    console().print(view())
