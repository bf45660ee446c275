"""What follows generation, for several runs on the same engines."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.parameters import FlowParameters
from flows.reporting.reporter import Reporter
from flows.shards.finished_runs import finish_runs
from flows.shards.stage_order import StageOrder
from tasks.errors import HarvestError
from tasks.plan.run_config import config_from_parameters
from tasks.plan.run_plan import RunPlan, plan_run
from tasks.results.run_report import RunReport
from tests.support.fault_proxy import Fault, fault_proxy
from tests.support.patience import until
from tests.support.prefect_worker import Api
from tests.support.synthetic import write_run


@pytest.mark.slow
def test_a_run_that_cannot_be_finished_keeps_no_other_from_it(tmp_path: Path, prefect_api: str) -> None:
    plan = plan_run(config_from_parameters({"profile": "cpu-demo", "questions": 2}), tmp_path)
    whole = write_run(tmp_path / "whole")
    plans = [_at(plan, tmp_path / "lost"), _at(plan, whole.root)]
    plans[0].paths.root.mkdir()

    told: list[RunReport] = []
    api, flow_runs = Api(url=prefect_api), list[str]()

    def artifacts() -> dict[str, dict[str, Any]]:
        return api.artifacts(flow_runs[0])

    @flow
    def finish() -> None:
        flow_runs.append(str(flow_run.id))
        with Reporter() as reporter:
            reporter.progress(10, "it begins", now=True)
            begun = until(lambda: artifacts().get("harvest-progress"), "the progress is reported")
            api.call("DELETE", f"/artifacts/{begun['id']}")
            # neither what is gone nor what the server refuses keeps the rest from it
            reporter.progress(20, "it goes on", now=True)
            reporter.markdown("harvest-refused", "it is refused", "")
            finish_runs(plans, {}, FlowParameters(), reporter, StageOrder(), on_report=told.append)

    with fault_proxy(prefect_api) as proxy, temporary_settings({PREFECT_API_URL: f"{proxy.endpoint}/api"}):
        proxy.faults.append(Fault(kind="403", method="POST", path=r"/artifacts/$", skip=2))
        with pytest.raises(HarvestError, match="lost"):
            finish()
    assert artifacts()["harvest-progress"]["description"] == "it goes on"
    assert "harvest-refused" not in artifacts()
    assert "harvest-rewards" in artifacts()
    assert whole.report.is_file()
    assert [Path(report.run_dir) for report in told] == [whole.root]
    assert whole.manifest.is_file()
    assert not plans[0].paths.manifest.exists()


def _at(plan: RunPlan, root: Path) -> RunPlan:
    return replace(plan, paths=replace(plan.paths, root=root))
