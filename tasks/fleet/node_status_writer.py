"""Writes a node's status to shared storage while the node works, and once more when it ends."""

import contextlib
import threading
import time
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tasks.errors import HarvestError
from tasks.files import read_json
from tasks.fleet.ledger import Ledger
from tasks.fleet.node_status import NodeState, NodeStatus, telemetry_key, write_status
from tasks.fleet.shard_supply import RENEWALS_PER_LEASE
from tasks.generation.journal import read_journal
from tasks.generation.replica_pool import ReplicaPool
from tasks.plan.run_plan import RunPlan

FINAL_REPORT_SECONDS = 8.0
"""How long a failed or cancelled node tries to write its last status; its published shards are safe anyway."""


class NodeStatusWriter:
    """Keeps and writes the status of this node. Use it as a context manager around all work of the node.

    A thread of its own calls ``beat`` as often as claims are renewed, from the first moment to the last: a node that
    waits for its GPUs, or whose engines end slowly, is not lost. ``beat`` is safe from any thread.
    """

    def __init__(self, ledger: Ledger, *, node: str, attempt: str, logs: str) -> None:
        self._ledger = ledger
        self._node = node
        self._attempt = attempt
        self._logs = logs
        self._state: NodeState = "starting"
        self._error: dict[str, str] | None = None
        self._plan: RunPlan | None = None
        self._pool: ReplicaPool | None = None
        self._gpus = 0
        self._published: dict[int, int] = {}
        self._beat = 0
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat_until_over, name="status", daemon=True)

    @property
    def published(self) -> tuple[int, ...]:
        """Shards that this node has published."""
        return tuple(sorted(self._published))

    def planned(self, plan: RunPlan) -> None:
        """Include ``plan`` from now on."""
        self._plan = plan

    def generating(self, pool: ReplicaPool, gpus: int) -> None:
        """Include the counters of ``pool`` from now on."""
        self._pool, self._gpus, self._state = pool, gpus, "generating"

    def add(self, index: int, num_rollouts: int) -> None:
        """Count a published shard of ``num_rollouts``."""
        self._published[index] = num_rollouts

    def beat(self) -> None:
        """Write the status as it is now."""
        with self._lock:
            self._beat += 1
            write_status(self._ledger.store, self._status())

    def __enter__(self) -> Self:
        self.beat()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._state = "ended" if error is None else "failed"
        if error is not None:
            self._error = {"type": type(error).__name__, "message": str(error)}
        last = threading.Thread(target=self._close, name="final-status", daemon=True)
        last.start()
        last.join(None if error is None else FINAL_REPORT_SECONDS)

    def _beat_until_over(self) -> None:
        while not self._over.wait(self._ledger.lease_s / RENEWALS_PER_LEASE):
            # the storage may be back for the next one; the node's own work fails if it is not
            with contextlib.suppress(HarvestError):
                self.beat()

    def _close(self) -> None:
        # the last status must be the last
        self._thread.join()
        try:
            for index in self._ledger.held:
                self._ledger.release(index)
            if self._plan is not None and self._plan.paths.telemetry.is_file():
                data = self._plan.paths.telemetry.read_bytes()
                self._ledger.store.put_bytes(telemetry_key(self._ledger.owner), data, "")
            self.beat()
        except HarvestError:
            # without the storage the leases expire, and the status that was written last stays
            return

    def _status(self) -> NodeStatus:
        pool, plan = self._pool, self._plan
        counters: dict[str, Any] = {}
        if pool is not None:
            done = pool.rollouts_finished + pool.rollouts_resumed
            counters = {
                "rollouts": pool.rollouts_finished,
                "in_progress": max(0, done - sum(self._published.values())),
                "tokens": pool.tokens_generated,
                "start_seconds": pool.engine_start_seconds,
                "start_kind": pool.start_kind,
                "restarts": pool.restarts,
                "rung_changes": tuple(asdict(change) for change in pool.rung_changes),
                "first_admitted_at": _clock(pool.first_admitted_at),
                "last_finished_at": _clock(pool.last_finished_at),
            }
        return NodeStatus(
            owner=self._ledger.owner,
            node=self._node,
            attempt=self._attempt,
            state=self._state,
            beat=self._beat,
            lease_s=self._ledger.lease_s,
            logs=self._logs,
            published=self.published,
            holding=tuple(self._ledger.held),
            replicas=plan.profile.replicas if plan else 0,
            gpus=self._gpus,
            preflight=read_json(plan.paths.preflight) if plan else None,
            error=self._error,
            **counters,
        )


def shards_begun(plan: RunPlan, indices: list[int]) -> list[int]:
    """Return the shards of ``indices`` whose journals on this node have rollouts."""

    def is_begun(path: Path) -> bool:
        return path.is_file() and bool(read_journal(path, plan.run_id, keep_rollouts=False).finished)

    return [index for index in indices if is_begun(plan.paths.journal(index))]


def _clock(monotonic: float | None) -> float | None:
    """Return a moment on the monotonic clock in seconds since the epoch."""
    return None if monotonic is None else time.time() - (time.monotonic() - monotonic)
