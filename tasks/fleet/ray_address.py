"""Whether a run is to be generated on nodes, and whether the address of their cluster can be one. Imports no Ray."""

import importlib.util
import os
import socket

import psutil

from tasks.errors import ConfigError
from tasks.extras import add_extra
from tasks.plan.policies import AUTO_BASELINE

ADDRESS_VARIABLE = "RAY_ADDRESS"
AUTO, LOCAL = "auto", "local"
_START = "Start one with ray start --head, and join this machine to it with ray start --address={}"
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


def address_of(given: str | None) -> str:
    """Return the address that is meant by the parameter: Ray lets its variable go before ``auto``."""
    if given in (None, AUTO):
        return os.environ.get(ADDRESS_VARIABLE) or given or LOCAL
    return str(given)


def split_address(address: str) -> tuple[str, int] | None:
    """Return host and port of ``address``, or None when it is not HOST:PORT."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 65536:
        return None
    return host.strip("[]"), int(port)


def check_address(given: str | None) -> None:
    """Raise ConfigError when Ray is not installed, or there is no cluster at the address that is ``given``."""
    if importlib.util.find_spec("ray") is None:
        raise ConfigError(
            f"several nodes are joined by Ray, which is not installed here. Install it: {add_extra('ray')}"
        )
    address = address_of(given)
    source = "ray" if address == given else ADDRESS_VARIABLE
    if address == LOCAL or (address == AUTO and any(map(_is_raylet, psutil.process_iter(["name", "status"])))):
        return
    if address == AUTO:
        raise ConfigError(
            f"{source} is auto, but this machine is part of no Ray cluster. " + _START.format("HEAD:6379")
        )
    if (found := split_address(address)) is None:
        raise ConfigError(
            f"{source} is {address!r}. Give HOST:PORT of the cluster's head (the port is 6379, or what ray start "
            f"--head was given; an address with ray:// is not taken), {AUTO} for the cluster that this machine is part "
            "of, or nothing for a Ray on this machine alone"
        )
    try:
        socket.create_connection(found, ANSWER_SECONDS).close()
    except (OSError, UnicodeError) as error:
        cause = (isinstance(error, OSError) and error.strerror) or error
        raise ConfigError(f"no Ray cluster answers at {address}: {cause}. " + _START.format(address)) from None


def _is_raylet(process: psutil.Process) -> bool:
    return bool(process.info["name"] == "raylet" and process.info["status"] != psutil.STATUS_ZOMBIE)
