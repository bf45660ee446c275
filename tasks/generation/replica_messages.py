"""What a replica and its parent say to each other: pickled records over one socket pair."""

from dataclasses import dataclass
from typing import Literal

from tasks.generation.engine import EngineSpec, EngineStats
from tasks.generation.rollout_frame import EngineFacts
from tasks.generation.shard_feed import GenerationSpec, ShardWork
from tasks.process_tree import ProcessRecord


@dataclass(frozen=True, kw_only=True)
class Start:
    """To the replica, first of all: build this engine and generate under this specification."""

    engine: EngineSpec
    generation: GenerationSpec


@dataclass(frozen=True, kw_only=True)
class AddShard:
    """To the replica: one more shard."""

    work: ShardWork


@dataclass(frozen=True, kw_only=True)
class Stop:
    """To the replica: end now; what is unfinished stays in the journal."""


@dataclass(frozen=True, kw_only=True)
class Ready:
    """From the replica: the engine is loaded. ``processes`` are the engine's own, besides the replica."""

    facts: EngineFacts
    processes: tuple[ProcessRecord, ...]


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """From the replica, about twice a second: counters since its start."""

    stats: EngineStats
    in_flight: int
    num_finished: int
    first_admitted_at: float | None = None
    last_finished_at: float | None = None
    """Seconds of the node's monotonic clock, so that throughput is not measured in heartbeats."""


@dataclass(frozen=True, kw_only=True)
class ShardStarted:
    """From the replica: ``num_resumed`` of the shard's rollouts were found in its journal."""

    index: int
    num_resumed: int


@dataclass(frozen=True, kw_only=True)
class ShardGenerated:
    """From the replica: the shard's rollouts are published; ``num_errors`` of them are error rows."""

    index: int
    num_errors: int


@dataclass(frozen=True, kw_only=True)
class Failed:
    """From the replica, last of all: what ended it, and whether that hit start or run.

    ``kind`` is "config" (a setting is wrong), "storage" (the disk refused a write) or "engine"; ``message`` is the
    exception's own, ``text`` the same with its traceback.
    """

    kind: Literal["config", "storage", "engine"]
    message: str
    text: str
    starting: bool


ToReplica = Start | AddShard | Stop
FromReplica = Ready | Heartbeat | ShardStarted | ShardGenerated | Failed
