"""A cluster on Ray: one placement group and one actor per node; for the nodes of one replica see ray_placement.py.

A group of its own for each node, and not one for all, lets the pool begin with the nodes that there are. The pending
ones are seen by Ray's autoscaler. A worker that is lost is replaced by the pool and not by Ray, as each new one must be
checked, and may be on another node: so actors have no restarts.
"""

import contextlib
import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from tasks.errors import ConfigError, HarvestError
from tasks.fleet.cluster import ClusterLost, Need, Placement
from tasks.fleet.node_worker import NodeWorker
from tasks.fleet.ray_address import ANSWER_SECONDS, LOCAL, address_of, split_address
from tasks.fleet.ray_placement import RayPlacement, gone
from tasks.idleness import Silence

HEAD_SECONDS = 30.0
"""How long nothing may listen at the head's address, however slow the machines are: after 60 s Ray itself would end
this process, without a word to the user."""
END_SECONDS = 10.0
"""How long the connection may take to close; without its head a cluster does not answer."""


@contextlib.contextmanager
def ray_cluster(address: str | None, log: Path, worker: Callable[..., object] = NodeWorker) -> Iterator["RayCluster"]:
    """Connect to the cluster at ``address``, or to a Ray on this machine that ends with the context.

    ``worker`` is the class of the workers. What Ray prints meanwhile is added to ``log``. Call it on the main thread,
    with which a Ray of its own dies. Raises ConfigError when there is no cluster, or one of another version, and
    HarvestError when Ray cannot be started here.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # else a call of a thread that outlives the connection would start another Ray, or join one
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
    import ray

    address = address_of(address)
    # one worker is all that this machine gets, and Ray would start a process per processor in advance
    own: dict[str, Any] = {"num_cpus": 1, "include_dashboard": False} if address == LOCAL else {}
    if address == LOCAL:
        # else Ray leaves one in the home, for all to read, and a later ray start --head asks for it
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    handler = signal.getsignal(signal.SIGTERM)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as printed, contextlib.redirect_stdout(printed):
        try:
            context = ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
        except Exception as error:
            told = " ".join(str(getattr(error, "message", error)).split())[:400].rstrip(".")
            if address == LOCAL:
                raise HarvestError(
                    f"Ray could not be started on this machine: {told}. Run the same command again when the machine is "
                    "less busy; without --nodes and --ray it needs no Ray"
                ) from None
            raise ConfigError(
                f"the Ray cluster at {address} cannot be used: {told}. Start one with ray start --head, with the same "
                "versions of Ray and Python on every machine. If it has a token, this process needs it too: "
                "RAY_AUTH_MODE=token, and the token in ~/.ray/auth_token"
            ) from None
        finally:
            # Ray's own would end the process without the flow's clean-up
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, handler)
        try:
            yield RayCluster(context.address_info["gcs_address"], worker, grows=address != LOCAL)
        finally:
            closing = threading.Thread(target=ray.shutdown, name="ray-shutdown", daemon=True)
            closing.start()
            closing.join(END_SECONDS)


class RayCluster:
    """The cluster to which this process is connected, with its head at ``head``, which is HOST:PORT."""

    def __init__(self, head: str, worker: Callable[..., object], grows: bool) -> None:
        self.head = head
        self.grows = grows
        self._worker = worker
        self._silence = Silence()

    def place(self, need: Need, besides: Collection[str]) -> Placement:
        return RayPlacement(need, besides, self._worker)

    def count_suited(self, need: Need, besides: Collection[str]) -> int:
        import ray

        with gone():
            nodes = ray.nodes()
        suited: int = sum(
            node["Alive"]
            and node["NodeID"] not in besides
            and node["Resources"].get("CPU", 0.0) >= 1
            and node["Resources"].get("GPU", 0.0) >= need.gpus
            for node in nodes
        )
        return suited // need.nodes

    def check_head(self) -> None:
        """Raise ClusterLost when nothing has listened at the head's address for ``HEAD_SECONDS``."""
        address = split_address(self.head)
        assert address is not None
        try:
            socket.create_connection(address, ANSWER_SECONDS).close()
            self._silence.end()
        except OSError as error:
            if (silent := self._silence.seconds()) > HEAD_SECONDS:
                raise ClusterLost(
                    f"the head of the Ray cluster, {self.head}, has not answered for {silent:.0f} s: {error}"
                ) from None
