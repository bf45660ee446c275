"""A Prefect worker of the ``harvest`` pool, and the few calls of Prefect's API that the tests make."""

import contextlib
import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.failure_report import shared_logs
from tests.support.harvest_command import environment
from tests.support.patience import HTTP_SECONDS, HangError, end, pause, scaled, until

FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


@dataclass(frozen=True, kw_only=True)
class Api:
    """Prefect's REST API at ``url``."""

    url: str

    def call(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            f"{self.url}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        while True:
            try:
                with urllib.request.urlopen(request, timeout=scaled(HTTP_SECONDS)) as answer:
                    raw = answer.read()
                return json.loads(raw) if raw else None
            except urllib.error.HTTPError as error:
                # SQLite is locked; Prefect's own client also tries again
                if error.code != 503:
                    raise
                pause()

    def deployment(self, name: str, flow: str = "collect-rollouts") -> dict[str, Any]:
        found: dict[str, Any] = self.call("GET", f"/deployments/name/{flow}/{name}")
        return found

    def trigger(self, deployment: str, parameters: dict[str, Any], **environment: str) -> str:
        """Create a flow run of ``deployment``; the keywords are environment variables of its process."""
        body: dict[str, Any] = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        if environment:
            body["job_variables"] = {"env": environment}
        path = f"/deployments/{self.deployment(deployment)['id']}/create_flow_run"
        return str(self.call("POST", path, body)["id"])

    def flow_run(self, flow_run_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.call("GET", f"/flow_runs/{flow_run_id}")
        return found

    def flow_runs_of(self, run_id: str) -> list[dict[str, Any]]:
        """The flow runs of the run ``run_id``, the latest first.

        Equal configurations have equal run ids, and tests share a server: such a run needs a ``--name`` of its own.
        """
        body = {"flow_runs": {"tags": {"all_": [f"run:{run_id}"]}}, "sort": "START_TIME_DESC"}
        return list(self.call("POST", "/flow_runs/filter", body))

    def set_state(self, flow_run_id: str, kind: str, *, force: bool = False, **details: Any) -> None:
        self.call("POST", f"/flow_runs/{flow_run_id}/set_state", {"state": {"type": kind, **details}, "force": force})

    def wait(self, flow_run_id: str, kinds: Collection[str] = FINAL) -> dict[str, Any]:
        """The flow run as soon as its state is one of ``kinds``."""
        seen: list[dict[str, Any]] = []

        def ended() -> bool:
            seen[:] = [self.flow_run(flow_run_id)]
            return seen[0]["state_type"] in kinds

        try:
            until(ended, f"flow run {flow_run_id} is one of {sorted(kinds)}")
        except HangError as error:
            raise HangError(f"{error}\nits state is {seen[0]['state']}; its logs:\n{self.logs(flow_run_id)}") from None
        return seen[0]

    def logs(self, flow_run_id: str) -> str:
        found = self.call("POST", "/logs/filter", {"logs": {"flow_run_id": {"any_": [flow_run_id]}}})
        return "\n".join(log["message"] for log in found)

    def events(self, name: str, resource: str) -> list[dict[str, Any]]:
        """Events of this name about this resource. Waits for one: the server stores events with a delay."""
        body = {"filter": {"event": {"name": [name]}, "resource": {"id": [resource]}}}
        return list(
            until(lambda: self.call("POST", "/events/filter", body)["events"], f"event {name} about {resource}")
        )

    def arrows(self, flow_run_id: str) -> set[tuple[str, str]]:
        """The arrows of the flow run's graph, by the names of the task runs at their ends."""
        nodes = self.call("GET", f"/flow_runs/{flow_run_id}/graph-v2")["nodes"]
        names = {name: node["label"] for name, node in nodes}
        return {(names[parent["id"]], node["label"]) for _, node in nodes for parent in node["parents"]}

    def artifacts(self, flow_run_id: str) -> dict[str, dict[str, Any]]:
        """The latest artifact of each key. A key has two when the server's answer to the first came too late."""
        found = self.call("POST", "/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [flow_run_id]}}})
        return {artifact["key"]: artifact for artifact in sorted(found, key=lambda artifact: artifact["updated"])}


@contextlib.contextmanager
def running_worker(
    api_url: str, home: Path, name: str = "node-1", pool: str = "harvest", **extra: str
) -> Iterator["subprocess.Popen[bytes]"]:
    """A worker process of ``pool``, with ``extra`` environment variables; ended, with its flow runs, on leaving."""
    home.mkdir(parents=True, exist_ok=True)
    variables = {
        "PREFECT_API_URL": api_url,
        "PREFECT_HOME": str(home / ".prefect"),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "HARVEST_HOME": str(home),
        "DO_NOT_TRACK": "1",
        **extra,
    }
    # its home may be one that several tests use, so not below the folder of the test that fails
    shared_logs.append(home / f"{name}.log")
    with (home / f"{name}.log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "flows.commands.cli", "worker", "--name", name, "--pool", pool],
            env=environment(**variables),
            stdout=log,
            stderr=log,
        )
    try:
        yield worker
    finally:
        end(worker)
