"""A collection that loses all of its nodes, and gets its only credentials from a Prefect block."""

import json
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.collect import collect_rollouts
from flows.server.aws_credentials import transfer_with
from tasks.errors import NodesLost, PreflightFailed
from tasks.plan.run_config import config_from_parameters
from tasks.plan.run_plan import plan_run
from tests.faults.runs import only_run_dir, read_rows
from tests.support.fake_profile import write_fake_profile
from tests.support.leaks import find_leaks
from tests.support.node_flow_runs import (
    await_node_runs,
    claim_as_node,
    fail_as_node,
    mark_crashed,
    node_runs,
    running_node_run,
)
from tests.support.patience import HANG_SECONDS, await_exit, scaled
from tests.support.prefect_blocks import aws_block
from tests.support.prefect_worker import Api
from tests.support.s3_servers import Bucket

pytestmark = pytest.mark.slow

QUESTIONS, SHARD_SIZE = 16, 2


@pytest.fixture
def asked(tmp_path: Path) -> dict[str, Any]:
    return {
        "profile": str(write_fake_profile(tmp_path)),
        "questions": QUESTIONS,
        "shard_size": SHARD_SIZE,
        "max_tokens": 16,
        # its flow runs are found by it
        "name": f"lost-{uuid.uuid4().hex[:8]}",
    }


@pytest.fixture
def run_id(asked: dict[str, Any], tmp_path: Path) -> str:
    return plan_run(config_from_parameters(asked), tmp_path / "runs").run_id


def test_others_are_started_when_every_node_is_lost_and_all_of_them_read_the_block(
    tmp_path: Path, node_api: Api, bucket: Bucket, asked: dict[str, Any], run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = f"Dummy/{uuid.uuid4().hex}+of?the&block"
    way = {"endpoint_url": bucket.server.endpoint}
    pair = {"aws_access_key_id": "AKIAOFTHEBLOCK", "aws_secret_access_key": secret, "region_name": "us-east-1"}
    block = aws_block(node_api.url, **pair, aws_client_parameters=way)
    # neither this process, which collects, nor those of the nodes have any other way to the bucket
    for variable in bucket.server.environment:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))

    def lose_all_then_finish() -> None:
        first, second = await_node_runs(node_api, run_id, 2)
        with temporary_settings({PREFECT_API_URL: node_api.url}):
            assert claim_as_node(first, "node-1", transfer_with(block)) == [0, 1]
        mark_crashed(node_api, first["id"], "it lost power")
        mark_crashed(node_api, second["id"], "nobody took it")
        *_, third, _ = await_node_runs(node_api, run_id, 4)
        with running_node_run(node_api, third["id"], tmp_path, "node-3") as node:
            assert await_exit(node) == 0

    report = _collect(
        node_api,
        lose_all_then_finish,
        **asked,
        nodes=2,
        shared=f"s3://{bucket.name}/shared",
        upload=bucket.url,
        aws_credentials_block=block,
        runs_dir=str(tmp_path / "runs"),
    )
    assert len(read_rows(only_run_dir(tmp_path / "runs"))) == QUESTIONS * 8
    [session] = report["generation"]["sessions"]
    nodes = {node["node"]: (node["ended"], len(node["shards"])) for node in session["nodes"]}
    assert nodes == {"node-1": ("lost", 0), "node-3": ("well", QUESTIONS // SHARD_SIZE)}

    runs = node_runs(node_api, run_id)
    assert [run["state_type"] for run in runs] == ["CRASHED", "CRASHED", "COMPLETED", "CANCELLED"]
    assert {run["parameters"]["aws_credentials_block"] for run in runs} == {block}
    stored = {key: bucket.get(key) for key in bucket.listing()}
    # the upload is complete, and nothing is left of the work under way
    assert f"team/rollouts/{run_id}/_SUCCESS" in stored
    assert all(key.startswith(f"team/rollouts/{run_id}/") for key in stored)
    [collecting] = node_api.call("POST", "/flow_runs/filter", {"flow_runs": {"id": {"any_": [_parent(runs)]}}})
    texts = [json.dumps([*runs, collecting]), *(node_api.logs(run["id"]) for run in [*runs, collecting])]
    assert find_leaks([secret], [tmp_path], texts) == []


def test_nodes_that_are_lost_three_times_without_a_finished_shard_end_the_run_with_the_cause(
    tmp_path: Path, node_api: Api, asked: dict[str, Any], run_id: str
) -> None:
    def lose_each_as_it_comes() -> None:
        for count in (2, 4, 6):
            for number, node_run in enumerate(await_node_runs(node_api, run_id, count)[-2:]):
                mark_crashed(node_api, node_run["id"], f"rack {number} has no power")

    shared = {"shared": str(tmp_path / "shared"), "runs_dir": str(tmp_path / "runs")}
    with pytest.raises(NodesLost, match="started 3 times and finished nothing") as lost:
        _collect(node_api, lose_each_as_it_comes, **asked, **shared, nodes=2)
    assert "rack 0 has no power; Crashed: rack 1 has no power. Remove the cause" in str(lost.value)
    assert [run["state_type"] for run in node_runs(node_api, run_id)] == ["CRASHED"] * 6


def test_an_error_that_a_restart_does_not_cure_ends_the_run_at_once(
    tmp_path: Path, node_api: Api, asked: dict[str, Any], run_id: str
) -> None:
    def fail_all() -> None:
        for number, node_run in enumerate(await_node_runs(node_api, run_id, 2)):
            fail_as_node(node_api, node_run, f"node-{number}", PreflightFailed("no free disk"))

    shared = {"shared": str(tmp_path / "shared"), "runs_dir": str(tmp_path / "runs")}
    with pytest.raises(NodesLost, match="no node can generate") as lost:
        _collect(node_api, fail_all, **asked, **shared, nodes=2)
    for number in range(2):
        assert f"node-{number}: no free disk (logs on that node: /scratch/logs)" in str(lost.value)
    assert [run["state_type"] for run in node_runs(node_api, run_id)] == ["FAILED"] * 2


def _collect(api: Api, meanwhile: Callable[[], None], **parameters: Any) -> dict[str, Any]:
    """Collect in this process while ``meanwhile`` does what happens to the nodes; the report."""
    # so that this ends also when what happens meanwhile fails
    collect = collect_rollouts.with_options(retries=0, timeout_seconds=scaled(HANG_SECONDS))
    with ThreadPoolExecutor(1) as threads, temporary_settings({PREFECT_API_URL: api.url}):
        happening = threads.submit(meanwhile)
        try:
            report: dict[str, Any] = collect(**parameters)
        finally:
            # what went wrong there is why the collection did
            happening.result()
    return report


def _parent(runs: list[dict[str, Any]]) -> str:
    [attempt] = {run["parameters"]["attempt"] for run in runs}
    return str(attempt.rpartition("-")[0])
