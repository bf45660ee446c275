"""A collection over two nodes, which share an S3 server, loses one of them half way."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults.runs import Rows, only_run_dir, parameters, read_rows, write_profile
from tests.support.harvest_command import environment
from tests.support.node_workers import kill_node, running_node
from tests.support.prefect_worker import Api
from tests.support.s3_servers import Bucket

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("nodes and workers")]

SHARDS = 16


def test_a_node_that_is_killed_costs_its_own_unfinished_shards(
    tmp_path: Path, undisturbed: Rows, node_api: Api, bucket: Bucket
) -> None:
    runs_dir = tmp_path / "runs"
    options = [
        f"--{name.replace('_', '-')}={value}"
        for name, value in parameters(
            write_profile(tmp_path, backend="tests.support.faulty_engines:SlowEngine"), shard_size=1
        ).items()
    ]
    # the first node is slow enough to be seen half way, and has no help until then
    with running_node(node_api, tmp_path, "node-1", FAKE_STEP_SECONDS="0.3") as node_1:
        run = subprocess.Popen(
            [
                *(sys.executable, "-m", "flows.commands.cli", "run", *options),
                *("--nodes=2", f"--shared={bucket.url}", f"--runs-dir={runs_dir}", "--json"),
            ],
            env=environment(PREFECT_API_URL=node_api.url),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        made_before = _wait_until_node_1_is_half_way(run, bucket)
        kill_node(node_1)
        with running_node(node_api, tmp_path, "node-2", FAKE_STEP_SECONDS="0"):
            stdout, stderr = run.communicate(timeout=240)
    assert run.returncode == 0, stderr
    assert read_rows(only_run_dir(runs_dir)) == undisturbed

    report = json.loads(stdout)
    [session] = report["generation"]["sessions"]
    nodes = {node["node"]: node for node in session["nodes"]}
    assert {name: node["ended"] for name, node in nodes.items()} == {"node-1": "lost", "node-2": "well"}
    assert made_before - 1 <= len(nodes["node-1"]["shards"]) < SHARDS
    # totals that need the lost node's telemetry stay empty
    assert report["telemetry"]["elapsed_s"] is None
    assert "none came back from node-1" in report["telemetry"]["note"]
    assert node_api.flow_run(nodes["node-1"]["flow_run_id"])["state_type"] == "CRASHED"
    assert node_api.flow_run(nodes["node-2"]["flow_run_id"])["state_type"] == "COMPLETED"
    # by the second node when it has seen the claims expire, unless the collecting flow has given them up before
    taken_over = "taken over" in node_api.logs(nodes["node-2"]["flow_run_id"])
    assert taken_over or "are free for the other nodes" in stderr
    # the shared storage is empty again
    assert bucket.listing() == []


def _wait_until_node_1_is_half_way(run: "subprocess.Popen[str]", bucket: Bucket) -> int:
    """Wait until node-1 has published shards and holds others; how many it has published."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert run.poll() is None, run.communicate()
        found = [(key, json.loads(bucket.get(key))) for key in bucket.listing() if "/nodes/" in key]
        for key, record in found:
            owner = re.search(r"nodes/([\w-]+)\.json", key)
            claims = [key for key in bucket.listing() if "/claims/" in key and owner and owner.group(1) in key]
            if record["node"] == "node-1" and record["published"] and len(claims) >= 2:
                return len(record["published"])
        time.sleep(0.2)
    raise AssertionError("node-1 is never half way")
