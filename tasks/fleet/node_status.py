"""What a node says of itself on shared storage while it works, and what its work came to."""

import json
import os
import socket
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tasks.errors import UploadError
from tasks.fleet.ledger import node_key, read_object
from tasks.storage.object_store import ObjectStore

NODE_NAME_VARIABLE = "HARVEST_NODE"
NodeState = Literal["starting", "generating", "ended", "failed"]


@dataclass(frozen=True, kw_only=True)
class NodeStatus:
    """One node in one attempt at a run; ``owner`` is as in the ledger, ``attempt`` that of the collecting flow.

    ``published`` and ``holding`` are shards; ``rollouts`` counts what was generated here, ``in_progress`` what of it is
    in no published shard. Times are seconds since the epoch on the node's clock; ``start_seconds`` is over all engine
    starts. ``beat`` changes with every record that is written.
    """

    owner: str
    node: str
    attempt: str
    state: NodeState
    beat: int
    lease_s: float
    logs: str
    published: tuple[int, ...] = ()
    holding: tuple[int, ...] = ()
    rollouts: int = 0
    in_progress: int = 0
    tokens: int = 0
    start_seconds: float = 0.0
    restarts: int = 0
    replicas: int = 0
    gpus: int = 0
    first_admitted_at: float | None = None
    last_finished_at: float | None = None
    rung_changes: tuple[dict[str, Any], ...] = ()
    preflight: dict[str, Any] | None = None
    error: dict[str, str] | None = None


def node_name() -> str:
    """How this node is called in logs and reports: its worker's name, or the host's."""
    return os.environ.get(NODE_NAME_VARIABLE) or socket.gethostname()


def write_status(store: ObjectStore, record: NodeStatus) -> None:
    store.put_bytes(node_key(record.owner), json.dumps(asdict(record), ensure_ascii=False).encode(), "")


def read_status(store: ObjectStore, owner: str) -> NodeStatus | None:
    value = read_object(store, node_key(owner))
    if not value:
        return None
    lists = {name: tuple(value[name]) for name in ("published", "holding", "rung_changes")}
    return NodeStatus(**{**value, **lists})


def read_statuses(store: ObjectStore, owners: Iterable[str]) -> list[NodeStatus]:
    return [record for owner in sorted(owners) if (record := read_status(store, owner)) is not None]


def telemetry_key(owner: str) -> str:
    return f"telemetry/{owner}.parquet"


def read_telemetry(store: ObjectStore, owner: str) -> bytes | None:
    """The node's telemetry file, or None when it ended before it could send it."""
    try:
        return store.read(telemetry_key(owner))
    except UploadError:
        return None
