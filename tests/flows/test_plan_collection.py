"""The runs of a collection are those that its parameters name, or it is refused."""

from pathlib import Path

import pytest

from flows.parameters import FlowParameters
from flows.plan_collection import plan_collection
from tasks.errors import ConfigError
from tasks.plan.run_config import RunConfig
from tasks.plan.run_plan import plan_run


@pytest.mark.parametrize("checkpoints", [["step-1", "step-2"], ["step-1"], []])
def test_directories_as_checkpoints_begin_with_the_model(tmp_path: Path, checkpoints: list[str]) -> None:
    plan = plan_run(RunConfig(profile="cpu-demo", model="demo"), tmp_path)
    with pytest.raises(ConfigError, match=r"the model, demo, is not the first of them\. Give a pattern"):
        plan_collection(plan, FlowParameters(checkpoints=checkpoints))
    assert plan_collection(plan, FlowParameters(checkpoints=["demo"])) == (plan,)
