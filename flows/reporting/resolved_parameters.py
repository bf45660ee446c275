"""Replaces the placeholders in the flow's parameters, such as ``{date}`` and ``checkpoints/*``, by values."""

import datetime
from collections.abc import Mapping
from typing import Any

from prefect import runtime
from prefect.context import FlowRunContext

from flows.parameters import FlowParameters, chosen, run_config
from flows.plan_collection import plan_collection
from flows.reporting.progress import log_and_print
from tasks.node.plan_here import plan_here
from tasks.plan.placeholders import fill_placeholders, has_placeholder
from tasks.results.finished_run import unfinished_name
from tasks.user_paths import user_path


def resolve_parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``given`` with every placeholder resolved. A retry of the flow run gets the values of the first attempt.

    A date is that of the scheduled start, in this machine's time zone. A ``name`` with a placeholder becomes the name
    of the unfinished run with the same fingerprint, if there is one. Raises ConfigError.
    """
    resolved = dict(given)
    context = FlowRunContext.get()
    if context is not None and context.flow_run is not None:
        recorded = context.flow_run.parameters
        resolved |= {name: recorded[name] for name in _with_placeholder(resolved) if name in recorded}
    unresolved = _with_placeholder(resolved)
    if unresolved:
        resolved = fill_placeholders(resolved, scheduled_day(), log_and_print)
    if "name" in unresolved:
        plan = plan_here(run_config(resolved), user_path(resolved["runs_dir"]))
        plans = plan_collection(plan, chosen(FlowParameters, resolved))
        resolved["name"] = next(filter(None, map(unfinished_name, plans)), resolved["name"])
    return resolved


def changed_parameters(given: Mapping[str, Any], resolved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of ``resolved`` that differ from those ``given``."""
    return {name: resolved[name] for name in given if resolved[name] != given[name]}


def scheduled_day() -> datetime.date:
    """Return the day for which the current flow run was scheduled, or today when it was not scheduled."""
    start = runtime.flow_run.scheduled_start_time
    return datetime.datetime.fromtimestamp(start.timestamp()).date() if start else datetime.date.today()


def _with_placeholder(parameters: Mapping[str, Any]) -> list[str]:
    return [name for name in parameters if has_placeholder(parameters, name)]
