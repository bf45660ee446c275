"""``harvest preflight`` and ``harvest plan``: check a node and plan the memory of a run, without loading a model."""

import datetime
import os
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.commands.command import command, flag
from flows.commands.common_options import RUNS_DIR, Runs
from flows.commands.parameter_options import complete_runs, given_parameters, parameter_options
from flows.parameters import PARAMETERS, RUN_PARAMETERS, run_config
from flows.terminal import print_error, say
from tasks.errors import ConfigError, HarvestError

if TYPE_CHECKING:
    from tasks.generation.warm_start import WarmStart
    from tasks.plan.run_plan import RunPlan

_PREFLIGHT_PARAMETERS = ("profile", "model", "engine", "upload", "aws_credentials_block", "runs_dir")


@command(examples=("harvest preflight --model Qwen/Qwen2.5-72B-Instruct --warm",))
@flag("--smoke", "also compute something on every GPU")
@click.option(
    "--warm",
    is_flag=True,
    help="then start an engine as a run with these options would, so that what it compiles is in the cache; most "
    "options below are those of the run, for --warm alone",
)
@parameter_options(dict.fromkeys((*_PREFLIGHT_PARAMETERS, *RUN_PARAMETERS)))
@flag("--json", "print as JSON")
def preflight(smoke: bool, warm: bool, json: bool, **options: Any) -> int:
    """Check this node for a profile: GPUs, memory, disk, model files, destination."""
    from flows.console import print_result
    from profiles.load import load_arms
    from tasks.node.node_checks import check_node
    from tasks.node.plan_here import profile_here
    from tasks.node.preflight_view import render_preflight
    from tasks.user_paths import user_path

    runs_dir = user_path(options["runs_dir"] or RUNS_DIR)
    given = _given(options)
    run = _run_to_warm(given, runs_dir) if warm else None
    if not warm:
        _check_no_run(given)
    model = given.get("model")
    chosen = profile_here(options["profile"] or PARAMETERS["profile"].default, model, engine=options["engine"])
    profile = chosen.profile if run is None else run.profile
    for note in chosen.notes if run is None else run.choices:
        say(note)
    report = check_node(
        profile,
        model_path=_model_path(model or profile.model),
        runs_dir=runs_dir,
        upload_url=options["upload"],
        transfer=Runs(runs_dir, options["aws_credentials_block"]).transfer,
        smoke=smoke,
        arms=len(load_arms(None).arms),
    )
    shown = report.to_json()
    if run is None or report.failed or not json:
        print_result(shown, lambda: render_preflight(report), json=json)
    try:
        report.raise_if_failed()
    except HarvestError as error:
        return error.exit_code  # the table shows what failed
    if run is not None:
        started = _warm(run)
        shown["warm"] = started and asdict(started)
        print_result(shown, lambda: _in_words(started), json=json)
    return 0


@command(examples=("harvest plan --model Qwen/Qwen2.5-72B-Instruct --dataset openai/gsm8k",))
@click.option(
    "--after",
    metavar="RUN",
    shell_complete=complete_runs,
    help="take completion lengths and truncation from this finished run",
)
@parameter_options(RUN_PARAMETERS)
@flag("--json", "print as JSON")
def plan(after: str | None, json: bool, **options: Any) -> int:
    """What a run will take, what fits into memory, and what would make it faster."""
    from flows.console import print_result
    from tasks.node.capacity_plan import plan_capacity
    from tasks.node.plan_here import plan_here
    from tasks.node.preflight_view import render_plan
    from tasks.plan.policies import plan_policies
    from tasks.results.expectation import expect
    from tasks.results.expectation_view import plan_lines
    from tasks.user_paths import user_path

    runs_dir = user_path(options["runs_dir"] or RUNS_DIR)
    run, *beside = plan_policies(plan_here(run_config(_given(options)), runs_dir))
    for note in run.choices:
        say(note)
    length, truncation = _observed(after, runs_dir)
    capacity = plan_capacity(run, completion_length=length, truncation_rate=truncation)
    expected = expect((run, *beside), mean_tokens=length)
    view = partial(render_plan, capacity.plan, capacity.advice, capacity.warnings, plan_lines(expected))
    return print_result({**asdict(capacity), "expected": asdict(expected)}, view, json=json)


def _check_no_run(given: Mapping[str, Any]) -> None:
    """Raise ConfigError for an option that is of use with --warm alone."""
    if others := [name for name in given if name not in _PREFLIGHT_PARAMETERS]:
        option = PARAMETERS[others[0]].options[0]
        raise ConfigError(f"{option} is for --warm alone, which starts an engine as the run would. Add --warm")


def _run_to_warm(given: dict[str, Any], runs_dir: Path) -> "RunPlan":
    """Return the plan of the run whose caches --warm fills. Raises ConfigError."""
    from tasks.fleet.ray_address import check_span
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


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the given parameters with dates and patterns filled in; of several checkpoints the newest is meant."""
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
