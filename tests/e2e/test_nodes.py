"""A collection over two nodes, started from a deployment, watched, cancelled and resumed. The engine is a fake."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from flows.shards import node_runs
from flows.shards.node_runs import check_deployment
from tasks.errors import ConfigError
from tests.faults.runs import only_run_dir, read_rows
from tests.support.fake_profile import write_fake_profile
from tests.support.harvest_command import harvest
from tests.support.node_workers import running_nodes
from tests.support.patience import until
from tests.support.prefect_worker import Api, running_worker

pytestmark = pytest.mark.slow

QUESTIONS, SHARD_SIZE = 96, 4
HELD = 2 * SHARD_SIZE * 8
"""Rollouts after which a node stands still: enough for a shard, as completions end in any order."""


def test_a_cancelled_collection_ends_its_nodes_and_goes_on_with_what_they_finished(
    tmp_path: Path, node_api: Api
) -> None:
    deployed = harvest("deploy", "manual", PREFECT_API_URL=node_api.url)
    assert deployed.code == 0, deployed.stdout + deployed.stderr
    shared, runs_dir = tmp_path / "shared", tmp_path / "runs"
    asked: dict[str, Any] = {
        "profile": str(write_fake_profile(tmp_path)),
        "questions": QUESTIONS,
        "shard_size": SHARD_SIZE,
        "max_tokens": 16,
        "shared": str(shared),
        "runs_dir": str(runs_dir),
    }
    # each node publishes a shard, and none can finish its part before the collection is cancelled
    with (
        running_nodes(node_api, tmp_path, FAKE_HOLD_AFTER=str(HELD)),
        running_worker(node_api.url, tmp_path / "parent", "parent"),
    ):
        parent = node_api.trigger("manual", {**asked, "nodes": 2})
        _wait_until_both_have_published(node_api, parent, shared)
        children = _children(node_api, parent)
        assert [child["state_type"] for child in children] == ["RUNNING", "RUNNING"]
        assert {child["deployment_id"] for child in children} == {
            node_api.deployment("generate-shards", "generate-shards")["id"]
        }
        assert len({child["idempotency_key"] for child in children}) == 2
        node_api.set_state(parent, "CANCELLING")
        assert node_api.wait(parent)["state_type"] == "CANCELLED", node_api.logs(parent)
        for child in children:
            # where the server was too busy to take the parent's last word, the nodes have noticed by themselves
            ended = node_api.wait(child["id"])
            assert ended["state_type"] in ("CANCELLED", "FAILED"), node_api.logs(child["id"])

    # as if the collecting machine had lost its disk: what the nodes have finished is on shared storage alone
    finished = len(list(shared.glob("*/finished/*.json")))
    shutil.rmtree(runs_dir)
    options = [f"--{name.replace('_', '-')}={value}" for name, value in asked.items()]
    outcome = harvest("run", *options, "--json", PREFECT_API_URL=node_api.url)
    assert outcome.code == 0, outcome.stderr
    assert outcome.stderr.count("was finished by node-") == finished > 0
    [own, of_nodes] = outcome.report["generation"]["sessions"]
    assert own["rollouts"] == (QUESTIONS - SHARD_SIZE * finished) * 8
    assert {node["node"] for node in of_nodes["nodes"]} == {"node-1", "node-2"}
    assert of_nodes["rollouts"] >= SHARD_SIZE * finished * 8
    assert len(read_rows(only_run_dir(runs_dir))) == QUESTIONS * 8
    assert not [path for path in shared.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        pytest.param(["--nodes=2"], "Set shared to", id="nothing shared"),
        pytest.param(["--nodes=2", "--shared=DIRECTORY", "--profile=cpu-demo"], "PREFECT_API_URL", id="no server"),
    ],
)
def test_nodes_that_cannot_work_are_refused_in_one_line(tmp_path: Path, options: list[str], told: str) -> None:
    given = [option.replace("DIRECTORY", str(tmp_path / "shared")) for option in options]
    # a home without any Prefect settings
    refused = harvest("run", *given, f"--runs-dir={tmp_path / 'runs'}", HOME=str(tmp_path), PREFECT_API_URL="")
    assert (refused.code, refused.stdout) == (2, "")
    assert told in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_a_server_without_the_nodes_deployment_is_refused(prefect_api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    monkeypatch.setattr(node_runs, "DEPLOYMENT", "generate-shards/not-there")
    with temporary_settings({PREFECT_API_URL: prefect_api}), pytest.raises(ConfigError, match="harvest deploy"):
        check_deployment()


def _children(api: Api, parent: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.call(
        "POST", "/flow_runs/filter", {"flow_runs": {"parent_flow_run_id": {"any_": [parent]}}}
    )
    return found


def _wait_until_both_have_published(api: Api, parent: str, shared: Path) -> None:
    def both_have() -> bool:
        assert api.flow_run(parent)["state_type"] in ("SCHEDULED", "PENDING", "RUNNING"), api.logs(parent)
        records = [json.loads(path.read_text()) for path in shared.glob("*/nodes/*.json")]
        published = sorted(record["node"] for record in records if record["published"])
        return published == ["node-1", "node-2"] and "came from node-" in api.logs(parent)

    until(both_have, "both nodes have published a shard")
