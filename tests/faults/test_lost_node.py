"""A collection over two nodes, which share an S3 server, loses one of them half way."""

import json
import re
from pathlib import Path

import pytest

from tests.faults.runs import ROLLOUTS, Rows, RunProcess, only_run_dir, read_rows, start_harvest, write_profile
from tests.support.node_workers import kill_node, running_node
from tests.support.prefect_worker import Api
from tests.support.s3_servers import Bucket

pytestmark = pytest.mark.slow

SHARDS = 16


def test_a_node_that_is_killed_costs_its_own_unfinished_shards(
    tmp_path: Path, undisturbed_fake: Rows, node_api: Api, bucket: Bucket
) -> None:
    runs_dir = tmp_path / "runs"
    profile = write_profile(tmp_path, backend="tests.support.fake_engines:FakeEngine")
    # the first node has no help until it stands still, with its first shards done and six at least left
    with running_node(node_api, tmp_path, "node-1", FAKE_HOLD_AFTER=str(ROLLOUTS - 48)) as node_1:
        run = start_harvest(
            runs_dir,
            profile,
            more=["--nodes=2", f"--shared={bucket.url}"],
            changes={"shard_size": 1},
            PREFECT_API_URL=node_api.url,
        )
        made_before = wait_until_node_1_is_half_way(run, bucket)
        kill_node(node_1)
        with running_node(node_api, tmp_path, "node-2"):
            report = run.finish()
    assert read_rows(only_run_dir(runs_dir)) == undisturbed_fake

    [session] = report["generation"]["sessions"]
    nodes = {node["node"]: node for node in session["nodes"]}
    assert {name: node["ended"] for name, node in nodes.items()} == {"node-1": "lost", "node-2": "well"}
    assert made_before - 1 <= len(nodes["node-1"]["shards"]) < SHARDS
    # totals that need the lost node's telemetry stay empty
    assert report["telemetry"]["elapsed_s"] is None
    assert "none came back from node-1" in report["telemetry"]["note"]
    assert node_api.flow_run(nodes["node-1"]["flow_run_id"])["state_type"] == "CRASHED"
    assert node_api.flow_run(nodes["node-2"]["flow_run_id"])["state_type"] == "COMPLETED"
    # what the first node held was made by the second, and nothing twice
    made_by_2 = set(nodes["node-2"]["shards"])
    assert len(made_by_2) >= (48 * SHARDS) // ROLLOUTS
    assert made_by_2.isdisjoint(nodes["node-1"]["shards"])
    # the shared storage is empty again
    assert bucket.listing() == []


def wait_until_node_1_is_half_way(run: RunProcess, bucket: Bucket) -> int:
    """Wait until node-1 has published shards and holds others; how many it has published."""

    def num_published() -> int:
        records = [(key, json.loads(bucket.get(key))) for key in bucket.listing() if "/nodes/" in key]
        for key, record in records:
            owner = re.search(r"nodes/([\w-]+)\.json", key)
            claims = [key for key in bucket.listing() if "/claims/" in key and owner and owner.group(1) in key]
            if record["node"] == "node-1" and len(claims) >= 2:
                return len(record["published"])
        return 0

    return run.wait_until(num_published, "node-1 has published shards and holds others")
