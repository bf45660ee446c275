"""The flow over the nodes of a Ray cluster: it is ended by signals, and goes on."""

import signal
from functools import partial
from pathlib import Path

import psutil
import pytest

from tasks.generation.journal import read_journal
from tests.faults.runs import (
    ARMS,
    SHARD_SIZE,
    Rows,
    assert_nothing_left,
    only_run_dir,
    read_rows,
    start_harvest,
    write_profile,
)
from tests.support.ray_nodes import RayNode, RayNodes

pytestmark = pytest.mark.slow


def test_whatever_ends_the_flow_ends_its_nodes_and_the_same_command_goes_on(
    tmp_path: Path, ray_nodes: RayNodes, undisturbed_fake: Rows
) -> None:
    runs_dir = tmp_path / "runs"
    profile = write_profile(tmp_path, backend="tests.support.fake_engines:FakeEngine")
    for name in ("one", "two"):
        # a node stands still within its first shard, so that the shard's journal stays
        ray_nodes.add(name, tmp_path, FAKE_HOLD_AFTER=str(SHARD_SIZE * ARMS // 2))
    # Prefect's worker sends the first to the flow run that it cancels
    for number in (signal.SIGTERM, signal.SIGKILL):
        run = start_harvest(runs_dir, profile, more=["--nodes=2", f"--ray={ray_nodes.address}"])
        if number == signal.SIGTERM:
            # whichever of them begins first next time then has a shard to go on with
            run.wait_until(lambda: all(map(_journals, ray_nodes.nodes)), "both nodes have rollouts")
        else:
            # what a node had not finished is not made again
            run.wait_until(partial(_resumes, run.log), "a node resumes a shard")
        below = [process for node in ray_nodes.nodes for process in (node.actor, *node.actor.children(recursive=True))]
        seen = {process.pid: _started(process) for process in below}
        run.kill(number)
        assert_nothing_left(seen)

    # without an address, on a Ray of its own
    home = tmp_path / "home"
    run = start_harvest(
        runs_dir, profile, more=["--nodes=2"], HOME=str(home), HARVEST_HOME=str(home), HARVEST_NODE="here"
    )
    report = run.finish()
    assert read_rows(only_run_dir(runs_dir)) == undisturbed_fake
    assert [node["node"] for node in report["generation"]["sessions"][-1]["nodes"]] == ["here"]
    assert not (home / ".ray").exists(), "Ray left a token"
    assert_nothing_left(run.seen)


def _journals(node: RayNode) -> bool:
    return any(read_journal(path).finished for path in node.home.glob("nodes/*/*/state/journal/*.jsonl"))


def _resumes(log: Path) -> bool:
    return "were already in its journal" in log.read_text()


def _started(process: psutil.Process) -> float:
    try:
        return process.create_time()
    except psutil.NoSuchProcess:
        return 0.0
