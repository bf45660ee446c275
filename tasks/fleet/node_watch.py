"""Finds out, again and again, whether a pool of nodes can still work, or must wait, or has to give up."""

import time
from collections.abc import Callable

from tasks.errors import ConfigError, NodesLost
from tasks.fleet.cluster import Cluster, ClusterLost, Need, NodeGone
from tasks.fleet.node_roster import NodeRoster
from tasks.time_limits import time_limit

WAIT_SECONDS = 1800.0
"""How long a run waits for a node while it has none, before it fails. A cloud may take minutes to start one."""
MOST_LOSSES = 5
"""How often each node may be lost, on average, without a finished shard in between. Then the run fails, unless a node
works that was not lost: its shards may take long."""


class NodeWatch:
    """Watches a pool that wants ``nodes`` places, each with what it needs. ``say`` gets the messages for the user."""

    def __init__(self, cluster: Cluster, need: Need, nodes: int, wait_s: float, say: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._need = need
        self._nodes = nodes
        self._wait_s = wait_s
        self._say = say
        self._alone_since: float | None = None
        self._told: int | None = None

    def look(self, roster: NodeRoster) -> None:
        """Look at the pool once. Raises NodesLost or ConfigError when it has to give up."""
        working = roster.num_working
        try:
            self._cluster.check_head()
            self._judge(working, roster)
        except NodeGone:
            return  # the head does not answer, and ``check_head`` tells when that is for too long
        except ClusterLost as error:
            raise NodesLost(
                f"{error}. Start the cluster again; then the same command resumes, and without --ray it does on this "
                "machine"
            ) from None
        if working not in (self._nodes, self._told):
            self._say(
                f"waiting for {self._nodes - working} more of {self._nodes} {self._need.places}, each with {self._need}"
            )
        self._told = working

    def _judge(self, working: int, roster: NodeRoster) -> None:
        losses, unfit = roster.losses, roster.unfit
        told = "; ".join(dict.fromkeys(why for _, why in losses))
        if len(losses) >= MOST_LOSSES * self._nodes and not roster.is_steady:
            raise NodesLost(
                f"nodes were lost {len(losses)} times, and no shard was finished in between: {told}. Remove the cause, "
                "then run the same command, which resumes"
            )
        if working:
            self._alone_since = None
            return
        suited = self._cluster.count_suited(self._need, unfit.keys())
        if unfit and not suited:
            refused = all(error.kind in ("ConfigError", "PreflightFailed") for _, error in unfit.values())
            causes = "; ".join(f"{name}: {error}" for name, error in unfit.values())
            raise (ConfigError if refused else NodesLost)(f"no node can generate: {causes}")
        if not suited and not self._cluster.grows:
            raise ConfigError(
                f"the profile needs {self._need} on each node, and this machine, of which the Ray was started, has not "
                "that. Give --ray with the address of a cluster, or another profile"
            )
        self._alone_since = self._alone_since or time.monotonic()
        if (alone_s := time.monotonic() - self._alone_since) > time_limit(self._wait_s):
            several = self._need.nodes > 1
            nobody = f"no {self._need.nodes} nodes" if several else "no node"
            then = "are; it resumes" if several else "is one; it resumes, also on one machine"
            cause = f" Lost before: {told}." if losses else ""
            raise NodesLost(
                f"for {alone_s:.0f} s {nobody} of the cluster had {self._need} free.{cause} Run the same command when "
                f"there {then}"
            )
