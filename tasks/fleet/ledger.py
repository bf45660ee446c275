"""Decides which node generates which shard: a ledger of small objects on shared storage, with leases.

A claim is one object per shard and node. The node rewrites it while it works. A claim expires when it has not changed
for the length of a lease. Each reader measures that with its own clock; clocks of different nodes are never compared.
Each node writes only its own keys, and reads the ledger again after each write: two nodes that claim the same shard see
each other, and both release it. So the store needs no conditional writes. If this fails, only work is wasted: a shard
that is generated twice has the same seeds, and is published under the same key.
"""

import datetime
import json
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from profiles.regular_files import parse_json
from tasks.records import SHARD_NAME
from tasks.storage.digests import digest_file
from tasks.storage.object_store import ObjectStore
from tasks.time_limits import time_limit

RUN = "run.json"
_CLAIM = re.compile(r"^claims/shard-(\d{5,})\.([\w-]+)\.json$")
_FINISHED = re.compile(r"^finished/shard-(\d{5,})\.json$")
_NODE = re.compile(r"^nodes/([\w-]+)\.json$")


@dataclass(frozen=True, kw_only=True)
class LedgerSnapshot:
    """The contents of the ledger at one moment."""

    is_open: bool
    """Whether the order of the run is there. Without it, the nodes stop."""
    finished: frozenset[int]
    claims: Mapping[int, frozenset[str]]
    """By shard, the other owners with a valid claim."""
    expired: Mapping[int, frozenset[str]]
    """By shard, the other owners with an expired claim."""
    own: frozenset[int]
    """The shards that the reader itself has claimed."""
    nodes: Mapping[str, float]
    """Seconds since each owner's status last changed."""


class Ledger:
    """The ledger below ``store``, as ``owner`` sees it. ``owner`` consists of letters, digits, ``_`` and ``-``.

    No two live owners share a ``place``, which is a directory. Only one thread may call ``look``, ``claim`` and
    ``renew``; all else is safe from any thread. Every method may raise the errors of ``ObjectStore``.
    """

    def __init__(
        self,
        store: ObjectStore,
        *,
        owner: str,
        node: str,
        lease_s: float,
        place: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = store
        self.owner = owner
        self.lease_s = lease_s
        self._node = node
        self._place = place
        self._clock = clock
        self._seen: dict[str, tuple[str, float]] = {}
        self._held: dict[int, str] = {}
        self._beat = 0
        self._lock = threading.Lock()

    @property
    def held(self) -> list[int]:
        """Shards that this owner has claimed and has not finished, released or lost."""
        with self._lock:
            return sorted(self._held)

    def look(self) -> LedgerSnapshot:
        """Read the ledger, and note which objects have changed since the last call."""
        now = self._clock()
        found = self.store.listing()
        seen = {key: (stored.etag, now) for key, stored in found.items()}
        self._seen = {
            key: self._seen[key] if self._seen.get(key, ("", 0))[0] == seen[key][0] else seen[key] for key in seen
        }
        age = {key: now - since for key, (_, since) in self._seen.items()}
        claims: dict[int, set[str]] = defaultdict(set)
        expired: dict[int, set[str]] = defaultdict(set)
        own: set[int] = set()
        for key in found:
            if match := _CLAIM.match(key):
                index, owner = int(match.group(1)), match.group(2)
                if owner == self.owner:
                    own.add(index)
                else:
                    (expired if age[key] > time_limit(self.lease_s) else claims)[index].add(owner)
        return LedgerSnapshot(
            is_open=RUN in found,
            finished=frozenset(int(match.group(1)) for key in found if (match := _FINISHED.match(key))),
            claims={index: frozenset(owners) for index, owners in claims.items()},
            expired={index: frozenset(owners) for index, owners in expired.items()},
            own=frozenset(own),
            nodes={match.group(1): age[key] for key in found if (match := _NODE.match(key))},
        )

    def claim(self, wanted: Sequence[int], limit: int) -> dict[int, frozenset[str]]:
        """Claim up to ``limit`` of the ``wanted`` shards, in their order.

        Return the claimed shards, each with the owners of the expired claims that were taken over.
        """
        before = self.look()
        free = [index for index in wanted if index not in before.finished and not before.claims.get(index)]
        chosen = [index for index in free if index not in self.held][:limit]
        if not chosen:
            return {}
        for index in chosen:
            with self._lock:
                self._held[index] = _now()
            self._write(index)
        after = self.look()
        taken: dict[int, frozenset[str]] = {}
        for index in chosen:
            if after.claims.get(index) or index in after.finished:
                self.release(index)
                continue
            taken[index] = before.expired.get(index, frozenset())
            for owner in taken[index]:
                self.drop(index, owner)
        return taken

    def renew(self) -> list[int]:
        """Renew all held claims. Return the lost shards: those that another owner has taken over."""
        view = self.look()
        self._beat += 1
        lost = [index for index in self.held if index not in view.own]
        for index in self.held:
            if index in lost:
                with self._lock:
                    self._held.pop(index, None)
            else:
                self._write(index)
        return lost

    def release(self, index: int) -> None:
        """Give a claim back."""
        with self._lock:
            self._held.pop(index, None)
        self.drop(index, self.owner)

    def drop(self, index: int, owner: str) -> None:
        """Remove the claim of an owner that has ended."""
        self.store.delete(_claim_key(index, owner))

    def drop_from(self, owner: str) -> list[int]:
        """Remove all claims of an owner that has ended, and return their shards."""
        return self._drop_all(lambda claimant, key: claimant == owner)

    def drop_here(self) -> list[int]:
        """Remove the claims that earlier owners in this ``place`` left behind, and return their shards."""
        return self._drop_all(lambda claimant, key: read_object(self.store, key).get("place") == self._place)

    def _drop_all(self, is_gone: Callable[[str, str], bool]) -> list[int]:
        dropped = []
        for key in self.store.listing():
            if (match := _CLAIM.match(key)) and is_gone(match.group(2), key):
                self.store.delete(key)
                dropped.append(int(match.group(1)))
        return sorted(dropped)

    def publish(self, index: int, file: Path, fingerprint: str) -> bool:
        """Store a shard's rollouts, then mark it as finished. Return False when another owner finished it before."""
        first = self.store.head(finished_key(index)) is None
        if first:
            with file.open("rb") as opened:
                digest = digest_file(opened, self.store.transfer.part_bytes)
                self.store.put_file(rollouts_key(index), opened, digest, fingerprint)
            mark = {
                "sha256": digest.sha256,
                "bytes": digest.size,
                "owner": self.owner,
                "node": self._node,
                "at": _now(),
            }
            self.store.put_bytes(finished_key(index), _json(mark), fingerprint)
        self.release(index)
        return first

    def reopen(self, index: int) -> None:
        """Remove the mark of a finished shard whose stored rollouts are unusable, so that it is generated again."""
        self.store.delete(finished_key(index))

    def close(self) -> None:
        """Remove the run from the store: the order first, so that the nodes stop, then everything else."""
        self.store.delete(RUN)
        for key in self.store.listing():
            self.store.delete(key)

    def _write(self, index: int) -> None:
        with self._lock:
            claimed_at = self._held.get(index)
        if claimed_at is None:
            return
        claim = {
            "owner": self.owner,
            "node": self._node,
            "place": self._place,
            "claimed_at": claimed_at,
            "renewed_at": _now(),
            "beat": self._beat,
        }
        self.store.put_bytes(_claim_key(index, self.owner), _json(claim), "")
        # another thread may have finished the shard meanwhile, and then its claim must not stay
        if index not in self.held:
            self.drop(index, self.owner)


def rollouts_key(index: int) -> str:
    return f"rollouts/{SHARD_NAME.format(index)}"


def finished_key(index: int) -> str:
    return f"finished/shard-{index:05d}.json"


def node_key(owner: str) -> str:
    return f"nodes/{owner}.json"


def read_object(store: ObjectStore, key: str) -> dict[str, Any]:
    """Return the JSON object at ``key``. It is empty when the object is missing or damaged."""
    try:
        value = parse_json(store.read(key) or b"{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _claim_key(index: int, owner: str) -> str:
    return f"claims/shard-{index:05d}.{owner}.json"


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
