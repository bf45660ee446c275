"""The automations of infra/automations.yaml on a real server: each fires, and fills in its message."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from prefect import flow
from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL, temporary_settings

from flows.collect import collect_rollouts
from flows.reporting.reporter import Reporter
from flows.server.automations import install_automations
from flows.server.shipped_files import shipped_file
from tests.faults.runs import only_run_dir
from tests.support.fake_profile import write_fake_profile
from tests.support.harvest_command import environment, harvest
from tests.support.patience import until
from tests.support.prefect_blocks import make_block
from tests.support.prefect_worker import Api
from tests.support.webhook import Webhook, running_webhook

pytestmark = pytest.mark.slow

AUTOMATIONS_FILE = shipped_file("automations.yaml")
SHORTEST_WITHIN = timedelta(seconds=10)
"""The shortest time for which Prefect lets an automation wait for an event."""


@pytest.fixture
def hook(prefect_api: str) -> Iterator[Webhook]:
    """Where the automations' block notifies; they are gone afterwards, for the other tests of this server.

    The server is the process's own: Prefect's sender of events stays with the first one, and loses events for another.
    """
    with running_webhook() as hook:
        yield hook
        api = Api(url=prefect_api)
        for automation in _installed(api).values():
            api.call("DELETE", f"/automations/{automation['id']}")


def test_every_automation_fires_with_its_message(tmp_path: Path, prefect_api: str, hook: Webhook) -> None:
    api = Api(url=prefect_api)
    words = {"subject": "{{subject}}", "body": "{{body}}"}
    block = make_block(prefect_api, "custom-webhook", {"name": "team", "url": hook.url, "json_data": words})
    with temporary_settings({PREFECT_API_URL: prefect_api}):
        alone = install_automations(AUTOMATIONS_FILE, None)
        assert (alone.installed, len(alone.left_out)) == (["harvest-zombie"], 3)
        install_automations(AUTOMATIONS_FILE, f"custom-webhook/{block}")
    # again, as after an update of the file
    installed = harvest("automations", "--notify", f"custom-webhook/{block}", PREFECT_API_URL=prefect_api)
    assert installed.code == 0, installed.stderr
    automations = _installed(api)
    assert sorted(automations) == ["harvest-failed", "harvest-no-progress", "harvest-not-equivalent", "harvest-zombie"]
    for name in ("harvest-zombie", "harvest-no-progress"):
        _shorten(api, automations[name])

    profile, runs_dir = str(write_fake_profile(tmp_path)), tmp_path / "runs"
    with _silent_run(api, profile, runs_dir) as silent, temporary_settings({PREFECT_API_URL: prefect_api}):
        # the flow has retries, and bad input is none of their cases
        failed = collect_rollouts(
            profile, dataset="no-such-file.jsonl", runs_dir=str(tmp_path / "none"), return_state=True
        )
        _report_difference()

    flow_run = api.flow_run(str(failed.state_details.flow_run_id))
    body = hook.wait_for("Rollout Harvest: prefect.flow-run.Failed", flow_run["name"])
    link = f"{prefect_api.removesuffix('/api')}/runs/flow-run/{flow_run['id']}"
    assert body == f"{flow_run['name']} {flow_run['state']['message']} {link}"
    body = hook.wait_for("Rollout Harvest: different", "some-run")
    assert body == "some-run: 3 of 8 rollouts differ"

    crashed = api.wait(silent, {"CRASHED"})
    assert crashed["state"]["message"].startswith("No sign of life for five minutes.")
    assert crashed["state"]["message"] in hook.wait_for("Rollout Harvest: prefect.flow-run.Crashed", crashed["name"])
    run_id = only_run_dir(runs_dir).name
    body = hook.wait_for("Rollout Harvest: no progress", run_id)
    assert body == f"{run_id} has finished no rollout for half an hour."
    assert collect_rollouts.retries
    assert (flow_run["run_count"], "no-such-file.jsonl" in flow_run["state"]["message"]) == (1, True)
    # what had an end is left as it is
    assert api.flow_run(flow_run["id"])["state_type"] == "FAILED"


def test_a_server_that_does_not_know_its_address_sends_no_link() -> None:
    from prefect.server.events.jinja_filters import all_filters
    from prefect.server.schemas.core import FlowRun
    from prefect.server.schemas.states import Failed
    from prefect.server.utilities.user_templates import register_user_template_filters, render_user_template_sync

    register_user_template_filters(all_filters)
    found = yaml.safe_load(AUTOMATIONS_FILE.read_text(encoding="utf-8"))["automations"]
    [action] = next(automation["actions"] for automation in found if automation["name"] == "harvest-failed")
    event = {"resource": {"name": "some flow run"}}
    flow_run = FlowRun(flow_id=uuid4(), state=Failed(message="no card"))
    with temporary_settings({PREFECT_API_URL: None, PREFECT_UI_URL: None}):
        body = render_user_template_sync(action["body"], {"event": event, "flow_run": flow_run})
    assert body.split() == ["some", "flow", "run", "no", "card"]


def _installed(api: Api) -> dict[str, dict[str, Any]]:
    return {automation["name"]: automation for automation in api.call("POST", "/automations/filter", {})}


def _shorten(api: Api, automation: dict[str, Any]) -> None:
    """Have what is installed wait for less; all else stays as the file has it."""
    parts = ("name", "description", "enabled", "actions", "actions_on_trigger", "actions_on_resolve")
    trigger = {**automation["trigger"], "within": SHORTEST_WITHIN.total_seconds()}
    api.call(
        "PUT", f"/automations/{automation['id']}", {part: automation[part] for part in parts} | {"trigger": trigger}
    )


@contextlib.contextmanager
def _silent_run(api: Api, profile: str, runs_dir: Path) -> Iterator[str]:
    """The id of the flow run of a collection whose process was killed, alone, once it had shown that it lives."""
    run = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "flows.commands.cli",
            "run",
            "--profile",
            profile,
            "--questions=4",
            "--max-tokens=16",
            f"--runs-dir={runs_dir}",
            "--name=silent",
        ],
        env=environment(PREFECT_API_URL=api.url, FAKE_HOLD_AFTER="0"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        found = until(lambda: list(runs_dir.glob("*/config.json")), "the run's config.json", alive=[run])
        run_id = found[0].parent.name
        api.events("harvest.generation.started", f"harvest.run.{run_id}")
        [flow_run] = api.flow_runs_of(run_id)
        api.events("prefect.flow-run.heartbeat", f"prefect.flow-run.{flow_run['id']}")
        assert flow_run["state_type"] == "RUNNING"
    finally:
        run.kill()
        run.wait()
    yield flow_run["id"]


@flow
def _report_difference() -> None:
    with Reporter() as reporter:
        payload = {"verdict": "different", "reason": "3 of 8 rollouts differ"}
        reporter.event("harvest.equivalence.failed", "some-run", payload)
