"""A cluster on Ray: one placement group and one actor per node; for the nodes of one replica see ray_span.py.

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

from tasks.errors import ConfigError
from tasks.fleet.cluster import ClusterLost, Need, Placement
from tasks.fleet.node_worker import NodeWorker
from tasks.fleet.ray_address import ANSWER_SECONDS, LOCAL, address_of, split_address
from tasks.fleet.ray_handle import CONCURRENCY, RayHandle, gone
from tasks.fleet.ray_span import RaySpanPlacement
from tasks.fleet.span_worker import SpanWorker
from tasks.idleness import Silence

HEAD_SECONDS = 30.0
"""How long nothing may listen at the head's address, however slow the machines are: after 60 s Ray itself would end
this process, without a word to the user."""
END_SECONDS = 10.0
"""How long the connection may take to close; without its head a cluster does not answer."""


@contextlib.contextmanager
def ray_cluster(
    address: str | None,
    log: Path,
    worker: Callable[[], object] = NodeWorker,
    *,
    span_worker: Callable[..., object] = SpanWorker,
) -> Iterator["RayCluster"]:
    """Connect to the cluster at ``address``, or to a Ray on this machine that ends with the context.

    ``worker`` is the class of the workers, ``span_worker`` of those on the nodes of one replica. What Ray prints
    meanwhile is added to ``log``. Call it on the main thread, with which a Ray
    of its own dies. Raises ConfigError when there is no cluster, or one of another version.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DISABLE_IMPORT_WARNING", "1")
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
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.AuthenticationError) as error:
            told = " ".join(str(getattr(error, "message", error)).split())[:400].rstrip(".")
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
            yield RayCluster(context.address_info["gcs_address"], worker, span_worker, grows=address != LOCAL)
        finally:
            closing = threading.Thread(target=ray.shutdown, name="ray-shutdown", daemon=True)
            closing.start()
            closing.join(END_SECONDS)


class RayCluster:
    """The cluster to which this process is connected, with its head at ``head``, which is HOST:PORT."""

    def __init__(
        self, head: str, worker: Callable[[], object], span_worker: Callable[..., object], grows: bool
    ) -> None:
        self.head = head
        self.grows = grows
        self._worker = worker
        self._span_worker = span_worker
        self._silence = Silence()

    def place(self, need: Need, besides: Collection[str]) -> Placement:
        if need.nodes > 1:
            return RaySpanPlacement(need, besides, self._span_worker)
        return RayPlacement(need, besides, self._worker)

    def count_suited(self, need: Need, besides: Collection[str]) -> int:
        import ray

        with gone():
            nodes = ray.nodes()
        suited: int = sum(
            node["Alive"]
            and node["NodeID"] not in besides
            and all(node["Resources"].get(name, 0.0) >= count for name, count in _bundle(need).items())
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


class RayPlacement:
    """A placement group of one bundle."""

    def __init__(self, need: Need, besides: Collection[str], worker: Callable[[], object]) -> None:
        from ray.util.placement_group import placement_group

        self._need = need
        self._worker = worker
        elsewhere = [{"ray.io/node-id": f"!in({','.join(sorted(besides))})"}] if besides else None
        with gone():
            self._group = placement_group([_bundle(need)], bundle_label_selector=elsewhere)

    def wait(self, seconds: float) -> tuple[str, ...] | None:
        from ray.util.placement_group import placement_group_table

        with gone():
            if not self._group.wait(seconds):
                return None
            nodes: dict[int, str] = placement_group_table(self._group)["bundles_to_node_id"]
            return (nodes[0],)

    def start(self) -> RayHandle:
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        bundle = _bundle(self._need)
        with gone():
            actor = ray.remote(self._worker).options(
                num_cpus=bundle["CPU"],
                num_gpus=bundle.get("GPU", 0),
                max_restarts=0,
                max_concurrency=CONCURRENCY,
                scheduling_strategy=PlacementGroupSchedulingStrategy(self._group, 0),
            )
            return RayHandle(actor.remote())

    def remove(self) -> None:
        from ray.util.placement_group import remove_placement_group

        with contextlib.suppress(Exception):
            remove_placement_group(self._group)


def _bundle(need: Need) -> dict[str, float]:
    return {"CPU": 1.0} | ({"GPU": float(need.gpus)} if need.gpus else {})
