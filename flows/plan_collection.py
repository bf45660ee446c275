"""The plans of all runs that a flow collects on the same engines: of several checkpoints, or of adapters of a model."""

from flows.parameters import FlowParameters
from tasks.errors import ConfigError
from tasks.plan.checkpoint_plans import plan_checkpoints
from tasks.plan.policies import check_baselines, plan_policies
from tasks.plan.run_plan import RunPlan
from tasks.storage.download import refuse_unfinished_download


def plan_collection(plan: RunPlan, asked: FlowParameters) -> tuple[RunPlan, ...]:
    """Return the plan of each run. ``plan`` is that of the first model. Raises ConfigError."""
    plans = _plans(plan, asked)
    for each in plans:
        refuse_unfinished_download(each.paths.root)
    return plans


def _plans(plan: RunPlan, asked: FlowParameters) -> tuple[RunPlan, ...]:
    if not isinstance(asked.checkpoints, str) and asked.checkpoints[:1] != [plan.config.model]:
        raise ConfigError(
            f"checkpoints names directories, but the model, {plan.model.name}, is not the first of them. Give a "
            "pattern as the model, and all or newest as checkpoints"
        )
    plans = plan_checkpoints(plan, asked.checkpoints)
    if len(plans) == 1:
        plans = plan_policies(plan)
        check_baselines(plans, asked.baseline)
        return plans
    if plan.config.adapters:
        raise ConfigError(
            f"the pattern of the model means {len(plans)} checkpoints, and several are collected without adapters. "
            "Leave out adapters, or give --checkpoints newest"
        )
    check_baselines(plans, asked.baseline)
    return plans
