"""Whether a run is to be generated on nodes, and whether those that are asked for can do it. Imports no Ray."""

import importlib.util
import os
import socket

import psutil

from profiles.schema import Profile
from tasks.errors import ConfigError
from tasks.extras import add_extra
from tasks.node.plan_here import check_profile_of_nodes
from tasks.plan.policies import AUTO_BASELINE
from tasks.plan.run_config import RunConfig
from tasks.plan.run_plan import RunPlan

ADDRESS_VARIABLE = "RAY_ADDRESS"
AUTO, LOCAL = "auto", "local"
_START = "Start one with ray start --head, and join this machine to it with ray start --address={}"
ANSWER_SECONDS = 5.0


def check_nodes(config: RunConfig, plan: RunPlan, nodes: int, ray: str | None, baseline: str | None) -> None:
    """Raise ConfigError when ``plan``, made of ``config``, cannot be generated on ``nodes`` nodes of ``ray``."""
    check_span(plan.profile, nodes, ray)
    if not on_nodes(nodes, ray):
        return
    if baseline == AUTO_BASELINE:
        raise ConfigError(
            "baseline is auto, which is generated where the collection runs, and the run is on nodes. Collect the "
            "baseline first, and give its run id"
        )
    check_address(ray)
    check_profile_of_nodes(config, plan)


def check_span(profile: Profile, nodes: int = 1, ray: str | None = None) -> None:
    """Raise ConfigError when ``nodes`` nodes of the cluster at ``ray`` cannot hold whole replicas of ``profile``."""
    each = profile.engine.nodes_per_replica
    if each == 1:
        return
    if nodes % each:
        asked = f"nodes {nodes} is no multiple of it" if nodes > 1 else "this is for one node"
        raise ConfigError(
            f"nodes_per_replica of profile {profile.name} is {each}, and {asked}. Give harvest run --nodes {each}, "
            f"{2 * each} or another multiple, and --ray, the cluster of the nodes"
        )
    if address_of(ray) == LOCAL:
        raise ConfigError(
            f"nodes_per_replica of profile {profile.name} is {each}, and without --ray this machine is the only node. "
            f"Give the cluster of the {nodes} nodes: --ray HOST:PORT, or --ray auto if this machine is part of it"
        )


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
