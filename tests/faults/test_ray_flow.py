"""The flow over the nodes of a Ray cluster: it is ended by signals, and goes on."""

import contextlib
import json
import signal
from pathlib import Path

import psutil
import pytest

from tasks.generation.journal import read_journal
from tests.faults.runs import (
    ARMS,
    SHARD_SIZE,
    Rows,
    RunProcess,
    assert_nothing_left,
    only_run_dir,
    parameters,
    read_rows,
    start_harvest,
    write_profile,
)
from tests.support.ray_nodes import RayNode, RayNodes, running_cluster

pytestmark = pytest.mark.slow


def test_whatever_ends_the_flow_ends_its_nodes_and_the_same_command_goes_on(
    tmp_path: Path, undisturbed_fake: Rows, prefect_api: str
) -> None:
    runs_dir, server = tmp_path / "runs", {"PREFECT_API_URL": prefect_api}
    profile = write_profile(tmp_path, backend="tests.support.fake_engines:FakeEngine")
    with running_cluster() as nodes:
        # a node stands still within a shard, so that the shard's journal stays, and there are shards for the other
        held = {"FAKE_HOLD_AFTER": str(SHARD_SIZE * ARMS // 2)}
        one = nodes.add("one", tmp_path, **held)
        command = ["--nodes=2", f"--ray={nodes.address}"]

        # Prefect's worker sends it to the flow run that it cancels
        run = start_harvest(runs_dir, profile, more=command, **server)
        run.wait_until(lambda: _has_rollouts(one), "the node has rollouts")
        seen = _engines(nodes)
        run.kill(signal.SIGTERM)
        assert_nothing_left(seen)

        given = {**parameters(profile), "runs_dir": str(runs_dir), "nodes": 2, "ray": nodes.address}
        script = ["tests.support.python_flow", json.dumps(given)]
        run = RunProcess(runs_dir=runs_dir, module_and_arguments=script, variables=server)
        # what a node had not finished is not made again; the other comes later, so that it cannot take that shard
        run.wait_until(lambda: _told(run, "were already in its journal"), "a shard is resumed")
        nodes.add("two", tmp_path, **held)
        run.wait_until(lambda: _told(run, "begins: 2 of 2 nodes"), "both nodes work")
        seen = _engines(nodes)
        run.kill(signal.SIGKILL)
        assert_nothing_left(seen)

        run = start_harvest(runs_dir, profile, more=command, **server)
        run.wait_until(lambda: _told(run, "begins: 2 of 2 nodes"), "both nodes work")
        seen = _engines(nodes)
        for started in nodes.cluster.head_node.all_processes["gcs_server"]:
            started.process.kill()
        assert run.wait_for_end() == 1
        assert _told(run, f"the head of the Ray cluster, {nodes.address}, has not answered", "without --ray it does on")
        assert_nothing_left(seen)

    # as that says: on a Ray of its own
    home = tmp_path / "home"
    run = start_harvest(
        runs_dir, profile, more=["--nodes=2"], HOME=str(home), HARVEST_HOME=str(home), HARVEST_NODE="here", **server
    )
    report = run.finish()
    assert _told(run, "2 nodes are asked for, and without --ray there is one", "begins: 1 of 1 nodes")
    assert read_rows(only_run_dir(runs_dir)) == undisturbed_fake
    assert [node["node"] for node in report["generation"]["sessions"][-1]["nodes"]] == ["here"]
    assert not (home / ".ray").exists(), "Ray left a token"
    assert_nothing_left(run.seen)


def _has_rollouts(node: RayNode) -> bool:
    return any(read_journal(path).finished for path in node.home.glob("nodes/*/*/state/journal/*.jsonl"))


def _told(run: RunProcess, *texts: str) -> bool:
    """Whether the flow has told all of that."""
    told = run.log.read_text()
    return all(text in told for text in texts)


def _engines(nodes: RayNodes) -> dict[int, float]:
    """Start times, by pid, of the nodes' workers and what is below them."""
    seen = {}
    for worker in (worker for node in nodes.nodes for worker in node.below("ray::NodeWorker")):
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in (worker, *worker.children(recursive=True)):
                seen[process.pid] = process.create_time()
    return seen
