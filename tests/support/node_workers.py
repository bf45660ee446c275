"""Two nodes on one machine: workers with scratch directories of their own, and the deployment that they run."""

import contextlib
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from tests.support.harvest_command import harvest
from tests.support.patience import await_exit
from tests.support.prefect_worker import Api, running_worker

LEASE = timedelta(seconds=8)
"""Short, as nothing but its end tells that a node is lost. The product makes it longer on a slow machine."""
NODES = ("node-1", "node-2")


@pytest.fixture(scope="session")
def node_api(prefect_api: str) -> Api:
    """A Prefect server with the deployment of the nodes. Its leases are short."""
    deployed = harvest("deploy", "generate-shards", PREFECT_API_URL=prefect_api)
    assert deployed.code == 0, deployed.stdout + deployed.stderr
    api = Api(url=prefect_api)
    deployment = api.deployment("generate-shards", flow="generate-shards")
    api.call("PATCH", f"/deployments/{deployment['id']}", {"parameters": {"lease_seconds": LEASE.seconds}})
    return api


@contextlib.contextmanager
def running_node(api: Api, home: Path, name: str, **extra: str) -> Iterator["subprocess.Popen[bytes]"]:
    """The worker of node ``name``; ``extra`` are its additional environment variables."""
    # the server's SQLite is locked for long when several workers poll every second
    extra = {"PREFECT_WORKER_QUERY_SECONDS": "3", **extra}
    with running_worker(api.url, home / name, name, "harvest-nodes", **extra) as worker:
        yield worker


@contextlib.contextmanager
def running_nodes(api: Api, home: Path, **extra: str) -> Iterator[dict[str, "subprocess.Popen[bytes]"]]:
    """The workers of all nodes by their names."""
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(running_node(api, home, name, **extra)) for name in NODES}


def kill_node(worker: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    """SIGKILL a worker and every process under it, as if the machine lost power. Returns what was killed."""
    process = psutil.Process(worker.pid)
    tree = [process, *process.children(recursive=True)]
    for each in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    await_exit(worker)
    return tree
