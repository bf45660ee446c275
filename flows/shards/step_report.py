"""The report of a collection of several checkpoints: reward by step, as a page beside the runs and as an artifact."""

from collections.abc import Sequence

from flows.reporting.artifacts import report_steps
from flows.reporting.progress import log_and_print
from flows.reporting.reporter import Reporter
from tasks.plan.run_plan import RunPlan
from tasks.results.step_report import publish_steps, read_steps


def show_steps(plans: Sequence[RunPlan], reporter: Reporter) -> None:
    """Publish the page of the runs of ``plans``, which are finished, if they are of several checkpoints."""
    if len({plan.model.path for plan in plans}) < 2:
        return
    steps = read_steps([plan.paths.root for plan in plans])
    path = publish_steps(steps, plans[0].paths.root.parent)
    log_and_print(f"reward by step: {path}")
    report_steps(reporter, steps, path)
