"""Defines the messages between a replica and its parent: pickled records over one socket pair."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tasks.generation.engine import EngineSpec, EngineStats
from tasks.generation.generation_spec import GenerationSpec, ShardKey, ShardWork
from tasks.generation.rollout_frame import EngineFacts
from tasks.generation.run_counters import RunCounters
from tasks.node.engine_caches import StartKind
from tasks.process_tree import ProcessRecord

FailureKind = Literal["config", "storage", "reload", "engine"]


@dataclass(frozen=True, kw_only=True)
class Adopt:
    """To a replica that was begun early, before ``Start``: take this environment, and write to the log at this path."""

    log_path: Path
    environment: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Start:
    """To the replica, the first message: build this engine and generate with these settings."""

    engine: EngineSpec
    generation: GenerationSpec


@dataclass(frozen=True, kw_only=True)
class AddShard:
    """To the replica: generate one more shard."""

    work: ShardWork


@dataclass(frozen=True, kw_only=True)
class Stop:
    """To the replica: end now; finished rollouts of unfinished shards stay in their journals."""


@dataclass(frozen=True, kw_only=True)
class Ready:
    """From the replica: the engine is loaded. ``processes`` are those that the replica has started."""

    facts: EngineFacts
    processes: tuple[ProcessRecord, ...]
    start_kind: StartKind


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """From the replica, at least twice a second: its counters since its start."""

    stats: EngineStats
    in_flight: int
    num_finished: int
    first_admitted_at: float | None = None
    last_finished_at: float | None = None
    """In seconds on the node's monotonic clock. Throughput is measured with both, as heartbeats are too coarse."""
    runs: dict[str, RunCounters] = field(default_factory=dict)
    """By run id."""


@dataclass(frozen=True, kw_only=True)
class ShardStarted:
    """From the replica: it has opened the shard's journal, which holds ``num_resumed`` of its rollouts."""

    key: ShardKey
    num_resumed: int


@dataclass(frozen=True, kw_only=True)
class ShardGenerated:
    """From the replica: the shard's rollouts are published; ``num_errors`` of them are error rows."""

    key: ShardKey
    num_errors: int


@dataclass(frozen=True, kw_only=True)
class Reloading:
    """From the replica: it has nothing in flight, and begins to load the weights of its next shard."""

    weights: Path


@dataclass(frozen=True, kw_only=True)
class Reloaded:
    """From the replica: its engine has these weights now, which took ``seconds``."""

    weights: Path
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Failed:
    """From the replica, the last message: the exception that ended it.

    ``kind`` is "config" (a setting is wrong), "storage" (the disk refused a write), "reload" (the engine did not take
    the weights of its next shard) or "engine". ``message`` is the
    exception's own message, ``text`` its traceback. ``starting`` is True when the engine was not loaded yet.
    """

    kind: FailureKind
    message: str
    text: str
    starting: bool


ToReplica = Adopt | Start | AddShard | Stop
FromReplica = Ready | Heartbeat | ShardStarted | ShardGenerated | Reloading | Reloaded | Failed
