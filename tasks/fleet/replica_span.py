"""Whether the nodes that a run asks for can hold replicas over several nodes."""

from profiles.schema import Profile
from tasks.errors import ConfigError
from tasks.fleet.ray_address import LOCAL, address_of


def check_span(profile: Profile, nodes: int = 1, ray: str | None = None) -> None:
    """Raise ConfigError when ``nodes`` nodes of the cluster at ``ray`` cannot hold whole replicas of ``profile``.

    By default the run is on this machine alone.
    """
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
