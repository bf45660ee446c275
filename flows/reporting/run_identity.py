"""How a flow run is named and found: its name, its tags, and the parameters as they were resolved."""

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import runtime
from prefect.context import FlowRunContext

from flows.parameters import DEFAULT_PROFILE
from profiles.load import SettingsError, load_arms, load_profile
from tasks.plan.placeholders import is_moving, resolve_moving
from tasks.plan.run_config import config_from_parameters
from tasks.plan.run_plan import RunPlan, plan_run
from tasks.results.finished_run import unfinished_name


def flow_run_name() -> str:
    """``h100x8 · abel · 500 q x 8``, from the parameters of the current flow run; bad ones are the flow's to refuse."""
    given: Mapping[str, Any] = runtime.flow_run.parameters
    profile, model = str(given.get("profile") or DEFAULT_PROFILE), given.get("model")
    try:
        model = model or load_profile(profile).model
        completions = len(load_arms(given.get("arms")).arms) * int(given.get("samples_per_arm") or 1)
    except SettingsError:
        completions = 0
    return _name(Path(profile).stem, str(model or "no model"), given.get("questions") or "all", completions or "?")


def planned_name(plan: RunPlan) -> str:
    """The same, from what the parameters came to."""
    return _name(plan.profile.name, plan.model.name, plan.num_questions, plan.rollouts_per_question)


def _name(profile: str, model: str, questions: int | str, completions: int | str) -> str:
    return f"{profile} · {Path(model).name} · {questions} q x {completions}"


def flow_run_tags(plan: RunPlan) -> set[str]:
    """What a flow run of ``plan`` is filtered by; the run id leads from a run directory to its flow runs."""
    return {plan.profile.name, Path(plan.model.name).name, f"run:{plan.run_id}"}


def settle_parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """The flow's parameters with what moves resolved for this flow run, now and for each of its retries.

    The day is that of the scheduled start, in this machine's time zone. A name that moves goes on with the unfinished
    run of the same fingerprint, where there is one. Raises ConfigError.
    """
    settled = dict(given)
    context = FlowRunContext.get()
    if context is not None and context.flow_run is not None:
        recorded = context.flow_run.parameters
        settled |= {name: recorded[name] for name in _moving(settled) if name in recorded}
    moving = _moving(settled)
    if moving:
        settled = resolve_moving(settled, scheduled_day())
    if "name" in moving:
        plan = plan_run(config_from_parameters(settled), Path(settled["runs_dir"]))
        settled["name"] = unfinished_name(plan) or settled["name"]
    return settled


def changed_parameters(given: Mapping[str, Any], settled: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``settled`` that were given as something else."""
    return {name: settled[name] for name in given if settled[name] != given[name]}


def _moving(parameters: Mapping[str, Any]) -> list[str]:
    return [name for name in parameters if is_moving(parameters, name)]


def scheduled_day() -> datetime.date:
    """The day for which the current flow run was scheduled; today without one."""
    start = runtime.flow_run.scheduled_start_time
    return datetime.datetime.fromtimestamp(start.timestamp()).date() if start else datetime.date.today()
