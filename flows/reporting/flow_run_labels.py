"""Makes the name and the tags by which users find a flow run in Prefect's UI."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import runtime

from flows.parameters import PARAMETERS
from profiles.load import SettingsError, load_arms, load_profile
from profiles.schema import AUTO
from tasks.plan.run_plan import RunPlan

DEMO = "demo"
"""The model of "auto" when none is named; a node with GPUs refuses the run."""


def flow_run_name() -> str:
    """Return the current flow run's name from its parameters, such as ``h100x8 · abel · 500 q x 8``.

    Bad parameters raise nothing here: the flow itself refuses them.
    """
    given: Mapping[str, Any] = runtime.flow_run.parameters
    profile, model = str(given.get("profile") or PARAMETERS["profile"].default), given.get("model")
    try:
        model = model or (DEMO if profile == AUTO else load_profile(profile).model)
        arms, samples = len(load_arms(given.get("arms")).arms), int(given.get("samples_per_arm") or 1)
        completions = _completions(arms * samples, arms * int(given.get("max_samples_per_arm") or samples))
    except SettingsError:
        completions = ""
    return _name(Path(profile).stem, str(model or "no model"), given.get("questions") or "all", completions or "?")


def planned_flow_run_name(plan: RunPlan, *beside: RunPlan) -> str:
    """Return the name with the values that ``plan`` has settled, and the number of runs ``beside`` it, if any."""
    completions = _completions(plan.rollouts_per_question, plan.most_rollouts // plan.num_questions)
    name = _name(plan.profile.name, plan.model.name, plan.num_questions, completions)
    return f"{name} · {1 + len(beside)} policies" if beside else name


def flow_run_tags(plan: RunPlan) -> set[str]:
    """Return the tags: profile, model, and the run id, by which users find the flow runs of a run directory."""
    return {plan.profile.name, Path(plan.model.name).name, f"run:{plan.run_id}"}


def _completions(least: int, most: int) -> str:
    return str(least) if least == most else f"{least}-{most}"


def _name(profile: str, model: str, questions: int | str, completions: str) -> str:
    return f"{profile} · {Path(model).name} · {questions} q x {completions}"
