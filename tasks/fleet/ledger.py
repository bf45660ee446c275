"""Which node generates which shard: a ledger of small files on shared storage, with leases.

A claim is one object per shard and node, rewritten while the node works. A claim that has not changed for a lease's
time, on the reader's own clock, is nobody's: clocks of different nodes are never compared. Each node writes keys of
its own and looks again after writing, so that two who want one shard both see it and both step back; no store has to
offer conditional writes. Nothing breaks where this fails: a shard that is generated twice has the same seeds and is
published under the same key, and only work is wasted.
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

from tasks.records import SHARD_NAME
from tasks.storage.digests import digest_file
from tasks.storage.object_store import ObjectStore

RUN = "run.json"
_CLAIM = re.compile(r"^claims/shard-(\d{5,})\.([\w-]+)\.json$")
_FINISHED = re.compile(r"^finished/shard-(\d{5,})\.json$")
_NODE = re.compile(r"^nodes/([\w-]+)\.json$")


@dataclass(frozen=True, kw_only=True)
class LedgerSnapshot:
    """The ledger at one moment. ``claims`` and ``expired`` tell per shard which other owners hold or held it;
    ``own`` are the shards with a claim of the reader; ``nodes`` are the owners that have a record, with the seconds
    since it last changed."""

    is_open: bool
    finished: frozenset[int]
    claims: Mapping[int, frozenset[str]]
    expired: Mapping[int, frozenset[str]]
    own: frozenset[int]
    nodes: Mapping[str, float]


class Ledger:
    """The ledger below ``store``, as ``owner`` sees it; ``owner`` consists of letters, digits, ``_`` and ``-``.

    ``place`` is a directory that no two live owners share. ``look``, ``claim`` and ``renew`` belong to one thread; the
    rest is safe from any. Every method may raise what ``ObjectStore`` raises.
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
        """Shards that this owner has claimed and neither finished, released nor lost."""
        with self._lock:
            return sorted(self._held)

    def look(self) -> LedgerSnapshot:
        """List the ledger, and note what has changed since the last look."""
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
                    (expired if age[key] > self.lease_s else claims)[index].add(owner)
        return LedgerSnapshot(
            is_open=RUN in found,
            finished=frozenset(int(match.group(1)) for key in found if (match := _FINISHED.match(key))),
            claims={index: frozenset(owners) for index, owners in claims.items()},
            expired={index: frozenset(owners) for index, owners in expired.items()},
            own=frozenset(own),
            nodes={match.group(1): age[key] for key in found if (match := _NODE.match(key))},
        )

    def claim(self, wanted: Sequence[int], most: int) -> dict[int, frozenset[str]]:
        """Claim up to ``most`` of ``wanted``, in that order; the shards that are now this owner's, each with the
        owners whose expired claims it took over."""
        before = self.look()
        free = [index for index in wanted if index not in before.finished and not before.claims.get(index)]
        chosen = [index for index in free if index not in self.held][:most]
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
        """Renew every claim that is held; those that another owner has taken over meanwhile are lost and returned."""
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
        """Remove the claim of an owner that is known to be gone."""
        self.store.delete(_claim_key(index, owner))

    def drop_from(self, owner: str) -> list[int]:
        """Remove all claims of an owner that is known to be gone; the shards."""
        return self._drop_all(lambda claimant, key: claimant == owner)

    def drop_here(self) -> list[int]:
        """Remove the claims that earlier owners in this place have left; the shards."""
        return self._drop_all(lambda claimant, key: read_object(self.store, key).get("place") == self._place)

    def _drop_all(self, is_gone: Callable[[str, str], bool]) -> list[int]:
        dropped = []
        for key in self.store.listing():
            if (match := _CLAIM.match(key)) and is_gone(match.group(2), key):
                self.store.delete(key)
                dropped.append(int(match.group(1)))
        return sorted(dropped)

    def publish(self, index: int, file: Path, fingerprint: str) -> bool:
        """Store a finished shard's rollouts, then say that it is finished; False when another owner was first."""
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
        """Have a finished shard generated again: what is stored of it is not usable."""
        self.store.delete(finished_key(index))

    def close(self) -> None:
        """Remove the run from the store: first the order, so that no node works on, then all else."""
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
        # finished meanwhile in another thread: the claim that was just written is nobody's
        if index not in self.held:
            self.drop(index, self.owner)


def rollouts_key(index: int) -> str:
    return f"rollouts/{SHARD_NAME.format(index)}"


def finished_key(index: int) -> str:
    return f"finished/shard-{index:05d}.json"


def node_key(owner: str) -> str:
    return f"nodes/{owner}.json"


def read_object(store: ObjectStore, key: str) -> dict[str, Any]:
    """The JSON object at ``key``; empty when there is none or it is torn."""
    try:
        value = json.loads(store.read(key) or b"{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _claim_key(index: int, owner: str) -> str:
    return f"claims/shard-{index:05d}.{owner}.json"


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
