"""Whether a run is to be generated on nodes, and whether the address of their cluster can be one. Imports no Ray."""

import importlib.util
import socket

from tasks.errors import ConfigError
from tasks.plan.policies import AUTO_BASELINE

AUTO, LOCAL = "auto", "local"
ADDRESS_VARIABLE = "RAY_ADDRESS"
ANSWER_SECONDS = 5.0


def check_nodes(nodes: int, ray: str | None, baseline: str | None) -> None:
    """Raise ConfigError when a run cannot be generated on ``nodes`` nodes of the Ray cluster at ``ray``."""
    if not on_nodes(nodes, ray):
        return
    if baseline == AUTO_BASELINE:
        raise ConfigError(
            "baseline is auto, which is generated where the collection runs, and the run is on nodes. Collect the "
            "baseline first, and give its run id"
        )
    check_address(ray)


def on_nodes(nodes: int, ray: str | None) -> bool:
    """Return whether Ray is asked for: by several nodes, or by a cluster."""
    return nodes > 1 or ray is not None


def check_address(address: str | None) -> None:
    """Raise ConfigError when Ray is not installed, or nothing listens at ``address``."""
    if importlib.util.find_spec("ray") is None:
        raise ConfigError(
            "several nodes are joined by Ray, which is not installed here. Install it: pip install "
            "'rollout-harvest[ray]'"
        )
    if address in (None, AUTO, LOCAL):
        return
    host, _, port = str(address).rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise ConfigError(
            f"ray is {address!r}. Give HOST:PORT of the cluster's head, {AUTO} for the cluster that this machine is "
            "part of, or nothing for a Ray on this machine alone"
        )
    try:
        socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
    except OSError as error:
        raise ConfigError(
            f"no Ray cluster answers at {address}: {error.strerror or error}. Start one with ray start --head, and "
            f"join this machine to it with ray start --address={address}"
        ) from None
