"""Runs nodes without a worker: flow runs of ``generate_shards`` in processes of their own, as a worker starts them."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.errors import HarvestError
from tasks.fleet.ledger import Ledger
from tasks.fleet.node_status_writer import NodeStatusWriter
from tasks.fleet.shared_run import open_shared
from tasks.storage.filesystems import TransferSettings
from tests.support.harvest_command import environment
from tests.support.node_workers import LEASE, kill_node
from tests.support.patience import until
from tests.support.prefect_worker import Api


def node_runs(api: Api, run_id: str) -> list[dict[str, Any]]:
    """The flow runs that a collection has asked nodes for, in that order."""
    wanted = {"flows": {"name": {"any_": ["generate-shards"]}}, "flow_runs": {"name": {"like_": run_id}}}
    found = api.call("POST", "/flow_runs/filter", wanted)
    return sorted(found, key=lambda flow_run: flow_run["created"])


def await_node_runs(api: Api, run_id: str, count: int) -> list[dict[str, Any]]:
    """``node_runs`` as soon as there are ``count`` of them."""
    return until(
        lambda: found if len(found := node_runs(api, run_id)) >= count else None, f"{count} node runs of {run_id}"
    )


def mark_crashed(api: Api, flow_run_id: str, message: str) -> None:
    """Set the state that a worker sets for a flow run whose process is gone."""
    api.set_state(flow_run_id, "CRASHED", message=message, force=True)


def claim_as_node(flow_run: dict[str, Any], name: str, transfer: TransferSettings) -> list[int]:
    """Do what node ``name`` does before it is lost: write its record and claim two shards. Returns the shards."""
    ledger = _ledger(flow_run, name, transfer)
    _status_writer(ledger, flow_run, name).beat()
    return sorted(ledger.claim([0, 1, 2], 2))


def fail_as_node(api: Api, flow_run: dict[str, Any], name: str, error: HarvestError) -> None:
    """Do what node ``name`` does when it fails with ``error``."""
    with contextlib.suppress(HarvestError), _status_writer(_ledger(flow_run, name, TransferSettings()), flow_run, name):
        raise error
    api.set_state(flow_run["id"], "FAILED", message=str(error), force=True)


def _ledger(flow_run: dict[str, Any], name: str, transfer: TransferSettings) -> Ledger:
    given = flow_run["parameters"]
    store = open_shared(given["shared"], given["run"], transfer=transfer)
    return Ledger(store, owner=flow_run["id"], node=name, lease_s=LEASE.seconds)


def _status_writer(ledger: Ledger, flow_run: dict[str, Any], name: str) -> NodeStatusWriter:
    return NodeStatusWriter(ledger, node=name, attempt=flow_run["parameters"]["attempt"], logs="/scratch/logs")


@contextlib.contextmanager
def running_node_run(
    api: Api, flow_run_id: str, home: Path, name: str, **extra: str
) -> Iterator["subprocess.Popen[bytes]"]:
    """The process of this flow run on node ``name``; it and its descendants are killed on exit."""
    variables = {"PREFECT_API_URL": api.url, "HARVEST_HOME": str(home / name), "HARVEST_NODE": name, **extra}
    home.mkdir(parents=True, exist_ok=True)
    with (home / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect.engine", flow_run_id],
            env=environment(**variables),
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            kill_node(process)
