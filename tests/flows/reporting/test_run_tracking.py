"""What trackers get of a run, and that they cannot hurt it."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from flows.reporting.run_tracking import RunTracking
from flows.reporting.tracker_targets import check_trackers
from tasks.errors import ConfigError
from tasks.plan.run_config import config_from_parameters
from tasks.plan.run_plan import RunPlan, plan_run
from tasks.results.run_report import RunReport
from tasks.results.summary import summarize_run
from tests.support.patience import SHORT_SECONDS, scaled
from tests.support.synthetic import write_run
from tests.support.tensorboard_events import scalars

FAULTS = {
    "import threading\ndef Settings(**_): ...\ndef init(**_): threading.Event().wait()": "did not end within",
    "def Settings(**_): ...\ndef init(**_): raise OSError('no network')": "no network",
}


@pytest.fixture
def finished(tmp_path: Path) -> tuple[RunPlan, RunReport]:
    run = write_run(tmp_path / "runs" / "one")
    plan = plan_run(config_from_parameters({"profile": "cpu-demo", "questions": 2}), tmp_path)
    return replace(plan, paths=replace(plan.paths, root=run.root)), summarize_run(run.root)


def test_tensorboard_has_the_results_of_a_run(finished: tuple[RunPlan, RunReport]) -> None:
    plan, report = finished
    report = replace(report, run_id=plan.run_id)
    told: list[str] = []
    with RunTracking([plan], ["tensorboard"], told.append, end_seconds=scaled(60)) as tracking:
        tracking.finish(report)
    assert told == []
    found = {tag: (step, value) for tag, step, value in scalars(plan.paths.root / "tensorboard")}
    assert found["final/reward/all"] == (report.num_rollouts, pytest.approx(report.mean_reward))
    assert any(tag.startswith("config") for tag in found)


@pytest.mark.parametrize("fault", FAULTS, ids=FAULTS.get)
def test_a_tracker_that_fails_costs_a_warning(
    fault: str, finished: tuple[RunPlan, RunReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "wandb.py").write_text(fault)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    plan, report = finished
    told: list[str] = []
    hangs = "did not" in FAULTS[fault]
    limit = SHORT_SECONDS if hangs else scaled(60)
    with RunTracking([plan], ["wandb:project"], told.append, end_seconds=limit) as tracking:
        tracking.finish(replace(report, run_id=plan.run_id))
    (warning,) = told
    assert warning.startswith("warning: nothing more is logged to wandb:project: ")
    assert FAULTS[fault] in warning


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="the extra wandb is installed")
def test_a_tracker_that_is_not_installed_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"pip install 'rollout-harvest\[wandb\]'"):
        check_trackers(["wandb:project"])
