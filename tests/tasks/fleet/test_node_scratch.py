"""Where workers of a node work: apart from each other, where there is a disk, and removed when nobody needs it."""

import contextlib
import os
import time
from pathlib import Path

import pytest

from tasks.fleet.node_order import NodeOrder
from tasks.fleet.node_scratch import KEPT_SECONDS, lock_scratch, remove_forgotten, remove_runs
from tasks.fleet.node_status import NodeReport
from tasks.fleet.node_worker import NodeWorker
from tasks.plan.run_config import RunConfig
from tasks.plan.run_plan import RunPlan, plan_run
from tasks.plan.shards import shard_dataset
from tests.support.fake_profile import write_fake_profile
from tests.support.patience import SHORT_SECONDS, until


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunPlan:
    monkeypatch.setenv("HARVEST_HOME", str(tmp_path / "home"))
    plan = plan_run(RunConfig(profile=str(write_fake_profile(tmp_path))), tmp_path / "runs")
    shard_dataset(plan)
    return plan


def roots(home: Path) -> list[str]:
    return sorted(path.relative_to(home / "nodes").parts[0] for path in home.glob("nodes/*/*"))


def test_workers_of_one_run_have_directories_of_their_own(plan: RunPlan, tmp_path: Path) -> None:
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        [one] = lock_scratch([plan], first)
        [two] = lock_scratch([plan], second)
        assert [each.paths.root.relative_to(tmp_path / "home") for each in (one, two)] == [
            Path("nodes", number, plan.run_id) for number in "01"
        ]
        remove_runs([plan.run_id])
        assert roots(tmp_path / "home") == ["0", "1"]
        first.close()
        remove_runs(["another", plan.run_id])
        assert roots(tmp_path / "home") == ["1"]


def test_what_nobody_came_back_for_is_removed_after_a_week(plan: RunPlan, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stacks:
        for _ in range(2):
            lock_scratch([plan], stacks.enter_context(contextlib.ExitStack()))
    now = time.time()
    for number, age in (("0", KEPT_SECONDS + 60), ("1", KEPT_SECONDS - 3600)):
        os.utime(tmp_path / "home" / "nodes" / number / plan.run_id / "state" / "lock", (now - age, now - age))
    remove_forgotten()
    assert roots(tmp_path / "home") == ["1"]


def end_of(worker: NodeWorker, plan: RunPlan) -> dict[str, str]:
    worker.begin(NodeOrder.of([plan]), time.time())

    def ended() -> NodeReport | None:
        report = worker.report(SHORT_SECONDS)
        return report if report.status.state in ("refused", "failed", "ended") else None

    error = until(ended, "the worker ends").status.error
    assert error is not None
    return error


def test_a_node_without_a_place_to_write_is_refused(plan: RunPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARVEST_HOME", "/dev/null/home")
    error = end_of(NodeWorker(), plan)
    assert error["type"] == "ConfigError"
    assert "the node's directory /dev/null/home/nodes cannot be written" in error["message"]


def test_a_node_whose_disk_is_full_says_so(plan: RunPlan, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARVEST_HOME", str(small_disk))
    with contextlib.suppress(OSError), (small_disk / "full").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    error = end_of(NodeWorker(), plan)
    assert error["type"] == "StorageError"
    assert f"{small_disk / 'nodes'}: [Errno 28] No space left on device" in error["message"]
