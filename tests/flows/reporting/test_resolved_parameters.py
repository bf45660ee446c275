"""A dated name becomes that of the collection that is not finished, whichever of its runs that is."""

from pathlib import Path

from flows.parameters import FlowParameters
from flows.reporting.resolved_parameters import resolve_parameters
from tasks.plan.checkpoint_plans import plan_checkpoints
from tasks.plan.run_config import config_from_parameters
from tasks.plan.run_directory import open_run
from tasks.plan.run_plan import plan_run
from tasks.results.finished_run import unfinished_name
from tests.tasks.plan.test_checkpoints import make_model


def test_a_dated_name_goes_on_with_the_checkpoint_that_is_not_finished(tmp_path: Path) -> None:
    models = [str(make_model(tmp_path / f"step-{step}", step)) for step in (1, 2)]
    given = {"profile": "cpu-demo", "questions": 2, "model": models[0], "name": "night-1"}
    first, second = plan_checkpoints(plan_run(config_from_parameters(given), tmp_path / "runs"), models)
    open_run(second)
    assert (unfinished_name(first), unfinished_name(second)) == (None, "night-1")
    later = given | {"model": f"{tmp_path}/step-*", "name": "night-{date}", "runs_dir": f"{tmp_path}/runs"}
    resolved = resolve_parameters(FlowParameters().model_dump() | later)
    assert (resolved["name"], resolved["model"], resolved["checkpoints"]) == ("night-1", models[0], models)
