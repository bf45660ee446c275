"""What follows generation, for several runs on the same engines."""

from dataclasses import replace
from pathlib import Path

import pytest
from prefect import flow
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.parameters import FlowParameters
from flows.reporting.reporter import Reporter
from flows.shards.finished_runs import finish_runs
from flows.shards.stage_order import StageOrder
from tasks.errors import HarvestError
from tasks.plan.run_config import config_from_parameters
from tasks.plan.run_plan import RunPlan, plan_run
from tasks.results.run_report import RunReport
from tests.support.synthetic import write_run


@pytest.mark.slow
def test_a_run_that_cannot_be_finished_keeps_no_other_from_it(tmp_path: Path, prefect_api: str) -> None:
    plan = plan_run(config_from_parameters({"profile": "cpu-demo", "questions": 2}), tmp_path)
    whole = write_run(tmp_path / "whole")
    plans = [_at(plan, tmp_path / "lost"), _at(plan, whole.root)]
    plans[0].paths.root.mkdir()

    told: list[RunReport] = []

    @flow
    def finish() -> None:
        with Reporter() as reporter:
            finish_runs(plans, {}, FlowParameters(), reporter, StageOrder(), on_report=told.append)

    with temporary_settings({PREFECT_API_URL: prefect_api}), pytest.raises(HarvestError, match="lost"):
        finish()
    assert whole.report.is_file()
    assert [Path(report.run_dir) for report in told] == [whole.root]
    assert whole.manifest.is_file()
    assert not plans[0].paths.manifest.exists()


def _at(plan: RunPlan, root: Path) -> RunPlan:
    return replace(plan, paths=replace(plan.paths, root=root))
