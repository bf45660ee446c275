"""Finds the policies of a collection: each is a run of its own, and all share the engines of a node."""

from tasks.plan.run_plan import RunPlan


def plan_policies(plan: RunPlan) -> tuple[RunPlan, ...]:
    """Return the plans of the runs that ``plan`` asks for, itself first. They differ in their policies only."""
    return (plan,)
