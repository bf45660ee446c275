"""What trackers get of a run, and that they cannot hurt it."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest

from flows.reporting.progress import Progress
from flows.reporting.run_tracking import RunTracking
from flows.reporting.tracker_targets import check_trackers
from tasks.errors import ConfigError
from tasks.fleet.node_pool import NodePool
from tasks.generation.engine import EngineLoad
from tasks.plan.run_config import config_from_parameters
from tasks.plan.run_plan import RunPlan, plan_run
from tasks.results.rewards_so_far import RewardsSoFar
from tasks.results.run_report import RunReport
from tasks.results.summary import summarize_run
from tests.support.patience import SHORT_SECONDS, scaled, until
from tests.support.scripted_nodes import Script, ScriptedCluster
from tests.support.synthetic import write_run
from tests.support.tensorboard_events import scalars

HAS_WANDB = importlib.util.find_spec("wandb") is not None
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


@pytest.mark.skipif(not HAS_WANDB, reason="the extra wandb is not installed")
def test_wandb_has_the_results_of_a_run(
    finished: tuple[RunPlan, RunReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    plan, report = finished
    told: list[str] = []
    with RunTracking([plan], ["wandb:project"], told.append, end_seconds=scaled(60)) as tracking:
        tracking.finish(replace(report, run_id=plan.run_id))
    assert told == []
    (logged,) = tmp_path.glob(f"wandb/offline-run-*/run-{plan.run_id}.wandb")
    data = logged.read_bytes()
    assert b"final/reward/all" in data
    assert json.dumps(report.mean_reward).encode() in data


class Begun:
    """Counters of a pool that generates for both runs."""

    rollouts_finished, rollouts_resumed, tokens_generated, first_admitted_at = 1_000, 0, 5_000, 0.0


def test_each_of_several_runs_has_its_own_rewards_and_the_load_of_all_nodes(
    finished: tuple[RunPlan, RunReport], tmp_path: Path
) -> None:
    plan, _ = finished
    runs = [write_run(tmp_path / "runs" / name, accuracy=accuracy) for name, accuracy in (("a", 0.0), ("b", 1.0))]
    plans = [replace(plan, paths=paths) for paths in runs]
    progress = Progress(total=2_000, counters=Begun(), rewards=RewardsSoFar(several=True))
    progress.rewards.add(runs[0], 0)
    for index in (0, 1):
        progress.rewards.add(runs[1], index)
    progress.rewards.read(scaled(60))
    load = EngineLoad(running=3, waiting=2, kv_cache_usage=0.25)
    cluster = ScriptedCluster(one=Script(load=load), two=Script(load=replace(load, kv_cache_usage=0.5)))
    told: list[str] = []
    target = f"tensorboard:{tmp_path / 'logged'}"
    with (
        NodePool(plans, cluster, 2) as pool,
        RunTracking(plans, [target], told.append, end_seconds=scaled(60)) as tracking,
    ):
        until(lambda: pool.pump(SHORT_SECONDS) or pool.load.running == 6, "both nodes tell their load")
        tracking.live(progress, pool, now=True)
    assert told == []
    for paths, rollouts, reward in zip(runs, (32, 64), (0.0, 1.0), strict=True):
        found = {tag: (step, value) for tag, step, value in scalars(tmp_path / "logged" / paths.run_id)}
        assert found["progress/rollouts"] == (rollouts, rollouts)
        assert found["reward/all"] == (rollouts, reward)
        loads = {name: found[f"engine/{name}"][1] for name in ("running", "waiting", "kv_cache_use", "nodes")}
        assert loads == {"running": 6, "waiting": 4, "kv_cache_use": 0.5, "nodes": 2}


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


@pytest.mark.skipif(HAS_WANDB, reason="the extra wandb is installed")
def test_a_tracker_that_is_not_installed_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"pip install 'rollout-harvest\[wandb\]'"):
        check_trackers(["wandb:project"])
