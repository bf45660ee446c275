from dataclasses import replace
from pathlib import Path

from tasks.generation.weight_readahead import read_weights_ahead
from tasks.plan.run_config import RunConfig
from tasks.plan.run_plan import plan_run


def test_weights_are_read_when_there_are_some_and_they_fit(tmp_path: Path) -> None:
    plan = plan_run(RunConfig(), tmp_path)
    thread = read_weights_ahead(plan)
    assert thread is not None
    thread.join()
    (tmp_path / "model").mkdir()
    assert read_weights_ahead(replace(plan, model=replace(plan.model, path=tmp_path / "model"))) is None
    with (tmp_path / "model/model.safetensors").open("wb") as file:
        file.truncate(1 << 43)
    assert read_weights_ahead(replace(plan, model=replace(plan.model, path=tmp_path / "model"))) is None
