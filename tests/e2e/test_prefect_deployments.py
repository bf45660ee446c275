"""Collections as Prefect's users start them: deployed, scheduled, by hand, cancelled, killed, retried.

The engine is a fake: what is shown is the flow's, the worker's and the server's part.
"""

import base64
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import urllib.error
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import polars as pl
import psutil
import pytest

from flows.parameters import SECTIONS
from flows.server.worker import report_ended
from tasks.generation.journal import read_journal
from tests.support.fake_profile import write_fake_profile
from tests.support.harvest_command import ROOT, environment, harvest
from tests.support.left_behind import outlives_the_test
from tests.support.patience import await_exit, end, is_alive, until
from tests.support.prefect_worker import Api, running_worker
from tests.support.terminal import Terminal

pytestmark = pytest.mark.slow

NUM_QUESTIONS = 96


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("harvest-home")


@pytest.fixture(scope="module")
def asked(home: Path) -> dict[str, Any]:
    """Parameters of a small run: 96 questions in 6 shards, 768 rollouts."""
    return {"profile": str(write_fake_profile(home)), "questions": NUM_QUESTIONS, "max_tokens": 16}


@pytest.fixture(scope="module")
def api(prefect_api: str, home: Path) -> Api:
    """A server with all of infra/prefect.yaml, in a pool that Prefect's own command has made, without a limit."""
    server = Api(url=prefect_api)
    if server.call("POST", "/work_pools/filter", {"work_pools": {"name": {"any_": ["harvest"]}}}):
        # tests of other files have deployed to this server before
        server.call("PATCH", "/work_pools/harvest", {"concurrency_limit": None})
    else:
        server.call("POST", "/work_pools/", {"name": "harvest", "type": "process"})
    # as from an installed package: no checkout is here
    for arguments in (["bench-weekly", "--activate"], []):
        deployed = harvest("deploy", *arguments, cwd=home, PREFECT_API_URL=prefect_api)
        assert deployed.code == 0, deployed.stdout + deployed.stderr
        # deployed again, it stays active
        assert "harvest deploy bench-weekly --activate" not in deployed.stdout
    assert "harvest deploy nightly-h100x8 --activate starts it" in deployed.stdout
    return server


@dataclass(kw_only=True)
class Workers:
    """One worker at a time. Starts another one when a test has ended it."""

    api: Api
    home: Path
    stack: contextlib.ExitStack
    latest: "subprocess.Popen[bytes] | None" = None

    def running(self) -> "subprocess.Popen[bytes]":
        if self.latest is None or self.latest.poll() is not None:
            self.latest = self.stack.enter_context(running_worker(self.api.url, self.home))
            outlives_the_test(self.latest.pid)
        return self.latest


@pytest.fixture(scope="module")
def workers(api: Api, home: Path) -> Iterator[Workers]:
    with contextlib.ExitStack() as stack:
        yield Workers(api=api, home=home, stack=stack)


@pytest.fixture
def worker(workers: Workers) -> "subprocess.Popen[bytes]":
    return workers.running()


def test_the_deployments_are_those_of_the_file_and_the_schedule_that_was_activated_stays_active(api: Api) -> None:
    nightly = api.deployment("nightly-h100x8")
    assert nightly["schedules"][0]["schedule"] == {
        "cron": "0 2 * * *",
        "timezone": "America/Los_Angeles",
        "day_or": True,
    }
    weekly = api.deployment("bench-weekly", flow="bench")
    assert weekly["schedules"][0]["schedule"]["timezone"] == "America/Los_Angeles"
    assert [deployment["schedules"][0]["active"] for deployment in (nightly, weekly)] == [False, True]
    by_hand = [api.deployment(name) for name in ("manual", "ray-nodes", "demo")]
    assert [deployment["schedules"] for deployment in by_hand] == [[], [], []]
    assert [deployment["parameter_openapi_schema"].get("required", []) for deployment in by_hand] == [
        ["model"],
        ["model"],
        [],
    ]
    told = [deployment["parameter_openapi_schema"]["properties"]["model"]["description"] for deployment in by_hand]
    assert ["by default" in text for text in told] == [False, False, True]
    assert by_hand[0]["parameters"] == {"profile": "auto", "dataset": "openai/gsm8k"}
    assert by_hand[1]["parameters"] == {"profile": "h100x8", "dataset": "openai/gsm8k", "nodes": 4, "ray": "auto"}
    for deployment in (nightly, weekly, *by_hand):
        assert deployment["enforce_parameter_schema"]
        assert deployment["work_pool_name"] == "harvest"
        assert deployment["job_variables"]["stream_output"] is False
        # no path of the machine that deployed
        assert deployment["pull_steps"] == [{"flows.worker_home.enter_harvest_home": {}}]
    pool = api.call("GET", "/work_pools/harvest")
    assert (pool["type"], pool["concurrency_limit"]) == ("process", 1)


def test_every_field_of_the_form_has_a_title_and_its_bounds(api: Api) -> None:
    fields = api.deployment("demo")["parameter_openapi_schema"]["properties"]
    for name, field in fields.items():
        assert field["title"][0].isupper(), name
        assert "_" not in field["title"], name
    in_order = sorted(fields, key=lambda name: int(fields[name]["position"]))
    assert in_order[:6] == ["profile", "model", "dataset", "questions", "samples_per_arm", "max_tokens"]
    assert not any(": " in fields[name]["title"] for name in in_order[:6])
    groups = [fields[name]["title"].partition(": ")[0] for name in in_order[6:]]
    assert [group for group, _ in itertools.groupby(groups)] == list(SECTIONS)
    profiles = fields["profile"]["anyOf"]
    assert "h100x8" in profiles[0]["enum"]
    assert profiles[1]["pattern"] == r"\.toml$"
    temperature = fields["temperature"]["anyOf"][0]
    assert (temperature["minimum"], temperature["maximum"]) == (0, 2)
    assert fields["require"]["enum"] == ["bitwise", "numerical", "statistical"]


@pytest.mark.parametrize(
    ("deployment", "parameters", "named"),
    [
        ("demo", {"questions": 0}, "questions"),
        ("demo", {"profile": "no-such-profile"}, "profile"),
        ("demo", {"temperature": "hot"}, "temperature"),
        ("demo", {"require": "exact"}, "require"),
        ("manual", {}, "model"),
        ("manual", {"model": ""}, "model"),
    ],
)
def test_bad_parameters_are_refused_before_a_flow_run_exists(
    api: Api, deployment: str, parameters: dict[str, Any], named: str
) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        api.trigger(deployment, parameters)
    assert refused.value.code == 409
    assert named in refused.value.read().decode()


@pytest.fixture(scope="module")
def wanted(home: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """Parameters of the run that ``manual`` makes."""
    return {**asked, "name": "hand-{date:%Y}", "seed": "{date}", "upload": str(home / "bucket")}


@pytest.fixture(scope="module")
def manual(api: Api, workers: Workers, wanted: dict[str, Any]) -> dict[str, Any]:
    """A flow run of the deployment that has ended."""
    workers.running()
    return api.wait(api.trigger("demo", wanted))


def test_a_manual_run_shows_its_name_parameters_and_artifacts(api: Api, manual: dict[str, Any], home: Path) -> None:
    done, flow_run_id = manual, manual["id"]
    assert done["state_type"] == "COMPLETED", api.logs(flow_run_id)
    assert done["name"] == "fake · demo · 96 q x 8"
    assert "768 rollouts, 0 errors" in done["state"]["message"]

    name = done["parameters"]["name"]
    assert name.startswith("hand-20")
    assert len(str(done["parameters"]["seed"])) == 8
    [run_dir] = (home / "runs").glob(f"{name}-*")
    assert f"run:{run_dir.name}" in done["tags"]
    config = json.loads((run_dir / "config.json").read_text())
    assert config["config"]["sampling"]["seed"] == done["parameters"]["seed"]

    artifacts = api.artifacts(flow_run_id)
    assert artifacts["harvest-progress"]["data"] == 100
    assert "768/768 rollouts" in artifacts["harvest-progress"]["description"]
    assert len(json.loads(artifacts["harvest-arms"]["data"])) == 9
    assert {row["check"] for row in json.loads(artifacts["harvest-preflight"]["data"])} >= {"memory plan"}
    assert any(row["figure"] == "tokens per second" for row in json.loads(artifacts["harvest-throughput"]["data"]))
    page = artifacts["harvest-report"]["data"]
    assert run_dir.name in page
    assert "file:" not in page
    assert artifacts["harvest-rewards"]["type"] == "image"
    assert b"<svg" in base64.b64decode(artifacts["harvest-rewards"]["data"].partition("base64,")[2])
    record = {row["figure"]: row["value"] for row in json.loads(artifacts["harvest-upload"]["data"])}
    assert (record["url"], record["complete"]) == (str(home / "bucket" / run_dir.name), "yes")

    tasks = api.call("POST", "/task_runs/filter", {"flow_runs": {"id": {"any_": [flow_run_id]}}})
    assert [(task["name"], task["state"]) for task in tasks if task["state_type"] != "COMPLETED"] == []
    scores = pl.read_parquet(run_dir / "scores" / "shard-00003.parquet")
    assert f"shard 3: 128 rollouts, reward {scores['reward'].mean():.2f}" in api.logs(flow_run_id).splitlines()


def test_the_graph_shows_the_chain_of_the_stages(api: Api, manual: dict[str, Any]) -> None:
    arrows = {("shard dataset", "preflight"), ("summarize", "upload")}
    for shard in range(6):
        made, scored = f"shard {shard} · 128 rollouts", f"score shard {shard}"
        arrows |= {("preflight", made), (made, scored), (scored, f"upload shard {shard}"), (scored, "summarize")}
    assert api.arrows(manual["id"]) == arrows


def test_a_schedule_fires_and_a_finished_run_is_skipped(
    api: Api, worker: object, manual: dict[str, Any], home: Path, wanted: dict[str, Any]
) -> None:
    deployment = api.deployment("demo")
    interval = {"interval": 3, "anchor_date": "2026-01-01T00:00:00Z", "timezone": "UTC"}
    path = f"/deployments/{deployment['id']}/schedules"
    # a day that ends meanwhile would make another name and seed
    made = {name: manual["parameters"][name] for name in ("name", "seed")}
    parameters = {**wanted, **made, "skip_finished": True}
    [schedule] = api.call("POST", path, [{"schedule": interval, "active": True, "parameters": parameters}])

    def begun() -> list[str]:
        chosen = {"deployments": {"id": {"any_": [deployment["id"]]}}}
        states = {"flow_runs": {"state": {"type": {"any_": ["PENDING", "RUNNING", "COMPLETED"]}}}}
        found = api.call("POST", "/flow_runs/filter", chosen | states)
        return [run["id"] for run in found if run["auto_scheduled"]]

    try:
        fired = until(begun, "the schedule fires")
    finally:
        # one is enough, and each takes as long as any run
        api.call("DELETE", f"{path}/{schedule['id']}")
    [run_dir] = (home / "runs").glob(f"{made['name']}-*")
    for flow_run_id in fired:
        assert api.wait(flow_run_id)["state"]["message"].startswith(f"Nothing to do: run {run_dir.name}")
    assert len(json.loads((run_dir / "state" / "generation.json").read_text())) == 1


def test_a_run_that_is_cancelled_killed_and_retried_has_every_rollout_once(
    api: Api, worker: object, home: Path, asked: dict[str, Any], tmp_path: Path
) -> None:
    wanted = {**asked, "name": "hard", "seed": 3}
    cancelled = api.trigger("demo", wanted, FAKE_HOLD_AFTER="60")
    processes = _generating(home, "hard", rollouts=60)
    api.set_state(cancelled, "CANCELLING")
    assert api.wait(cancelled)["state_type"] == "CANCELLED", api.logs(cancelled)
    until(lambda: set(_shard_states(api, cancelled)) == {"CANCELLED"}, "the shards are cancelled")
    _gone(processes)

    # what the next run of the schedule would do: the same parameters, and so the same directory
    gate = tmp_path / "gate"
    killed = api.trigger("demo", wanted, FAKE_HOLD_AFTER="140", FAKE_GATE=str(gate))
    processes = _generating(home, "hard", rollouts=200)
    flow_process = int(api.flow_run(killed)["infrastructure_pid"].rpartition(":")[2])
    os.kill(flow_process, signal.SIGKILL)
    assert api.wait(killed)["state_type"] == "CRASHED", api.logs(killed)
    _gone(processes)

    gate.touch()
    # what `prefect flow-run retry` and the button in the UI do
    api.set_state(killed, "SCHEDULED", name="AwaitingRetry")
    while (done := api.wait(killed))["state_type"] == "CRASHED" and done["run_count"] == 1:
        # the process's runner has told of the crash, and its worker does too, which can come after the retry was asked
        api.set_state(killed, "SCHEDULED", name="AwaitingRetry")
    assert done["state_type"] == "COMPLETED", api.logs(killed)
    assert done["run_count"] == 2
    [run_dir] = (home / "runs").glob("hard-*")
    rollouts = pl.read_parquet(run_dir / "rollouts" / "*.parquet")
    assert rollouts.height == 8 * NUM_QUESTIONS
    assert rollouts.select("example_id", "arm_id", "sample_index").n_unique() == rollouts.height
    sessions = json.loads((run_dir / "state" / "generation.json").read_text())
    assert sessions[-1]["rollouts"] < 8 * NUM_QUESTIONS - 150


def test_a_worker_that_is_shut_down_leaves_no_run_running(
    api: Api, worker: "subprocess.Popen[bytes]", home: Path, asked: dict[str, Any]
) -> None:
    flow_run_id = api.trigger("demo", {**asked, "name": "shutdown", "seed": 4}, FAKE_HOLD_AFTER="20")
    processes = _generating(home, "shutdown", rollouts=20)
    worker.terminate()
    ended = api.wait(flow_run_id)
    assert ended["state_type"] in {"CRASHED", "CANCELLED"}, ended["state"]
    _gone(processes)
    await_exit(worker)


def test_a_worker_reports_flow_runs_that_ended_without_a_state(api: Api) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    runs = {state: api.trigger("manual", {"model": "demo"}) for state in ("RUNNING", "CANCELLING", "SCHEDULED")}
    for state, flow_run_id in runs.items():
        if state != "SCHEDULED":
            api.set_state(flow_run_id, state, force=True)
    with temporary_settings({PREFECT_API_URL: api.url}):
        # one of them was deleted meanwhile
        report_ended([uuid4(), *(UUID(flow_run_id) for flow_run_id in runs.values())])
    ended = {state: api.flow_run(flow_run_id)["state_type"] for state, flow_run_id in runs.items()}
    assert ended == {"RUNNING": "CRASHED", "CANCELLING": "CANCELLED", "SCHEDULED": "SCHEDULED"}
    api.set_state(runs["SCHEDULED"], "CANCELLED", force=True)


def test_harvest_serve_runs_its_own_deployment(api: Api, home: Path, asked: dict[str, Any]) -> None:
    runs_dir = home / "served-runs"
    options = ["--profile", asked["profile"], "--questions", "4", "--max-tokens", "16", "--runs-dir", str(runs_dir)]
    options += ["--upload", str(home / "served"), "--require", "bitwise", "--epsilon", "0.5", "--skip-finished"]
    command = [sys.executable, "-m", "flows.commands.cli", "serve", *options, "--aws-credentials-block", "team"]
    with Terminal(columns=1_000) as terminal:
        server = terminal.start(command, environment(PREFECT_API_URL=api.url, PREFECT_RUNNER_POLL_FREQUENCY="1"))
        try:
            deployment = _served(api, server)
            given = deployment["parameters"]
            assert (given["require"], given["epsilon"], given["skip_finished"]) == ("bitwise", 0.5, True)
            assert given["aws_credentials_block"] == "team"
            assert deployment["enforce_parameter_schema"]
            # there is no such block, and a directory needs none
            flow_run_id = api.trigger("served", {"aws_credentials_block": None})
            done = api.wait(flow_run_id)
            assert done["state_type"] == "COMPLETED", api.logs(flow_run_id) + terminal.raw
            [run_dir] = [path for path in runs_dir.iterdir() if (path / "manifest.json").is_file()]
            assert (home / "served" / run_dir.name / "_SUCCESS").is_file()
            # a busy server refuses a request now and then, and Prefect shows each
            before = len(terminal.raw)
            terminal.press("\x03")
            assert await_exit(server) == 0
        finally:
            end(server)
    odd = [word for word in ("Traceback", "KeyboardInterrupt", "RuntimeWarning") if word in terminal.raw[before:]]
    assert not odd, terminal.raw


def test_the_server_accepts_the_kubernetes_template(api: Api) -> None:
    template = json.loads((ROOT / "infra" / "kubernetes" / "base-job-template.json").read_text(encoding="utf-8"))
    pool = api.call("POST", "/work_pools/", {"name": "gpus", "type": "kubernetes", "base_job_template": template})
    assert pool["base_job_template"] == template


def _shard_states(api: Api, flow_run_id: str) -> list[str]:
    """The states of the task runs that generated and had not ended; the server stores them with a delay."""
    tasks = api.call("POST", "/task_runs/filter", {"flow_runs": {"id": {"any_": [flow_run_id]}}})
    return [
        task["state_type"] for task in tasks if task["name"].startswith("shard ") and task["state_type"] != "COMPLETED"
    ]


def _served(api: Api, server: "subprocess.Popen[bytes]") -> dict[str, Any]:
    def deployment() -> dict[str, Any] | None:
        with contextlib.suppress(urllib.error.HTTPError):
            return api.deployment("served")
        return None

    return until(deployment, "harvest serve has its deployment", alive=[server]) or {}


def _generating(home: Path, name: str, rollouts: int) -> list[psutil.Process]:
    """Wait until the run called ``name`` has journaled or published about so many rollouts; its replica processes."""

    def replicas() -> list[psutil.Process] | None:
        # a shard is published before its journal goes: the journals are counted first, and then only where no file is
        found = (home / "runs").glob(f"{name}-*/state/journal/*")
        journals = {path.stem: len(read_journal(path).finished) for path in found}
        published = {path.stem: 128 for path in (home / "runs").glob(f"{name}-*/rollouts/*.parquet")}
        done = sum((journals | published).values())
        records = list((home / "runs").glob(f"{name}-*/state/replica-*.pid.json"))
        if done >= rollouts and records:
            pids = [item["pid"] for path in records for item in json.loads(path.read_text())["processes"]]
            return [psutil.Process(pid) for pid in pids]
        return None

    return until(replicas, f"run {name} has {rollouts} rollouts") or []


def _gone(processes: list[psutil.Process]) -> None:
    """Wait until the replicas have ended."""
    until(lambda: not any(map(is_alive, processes)), "the replicas have ended")
