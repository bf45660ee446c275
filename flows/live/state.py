"""What is known of a run at one moment, for the panel that a terminal shows."""

from dataclasses import dataclass
from typing import NamedTuple


class RewardRow(NamedTuple):
    """The mean reward so far of an arm or, of several runs, of a run. ``low`` and ``high`` are its 95% interval."""

    name: str
    mean: float
    low: float | None
    high: float | None
    rollouts: int


@dataclass(frozen=True)
class GpuMemory:
    """Memory in bytes; ``total`` is None where it is not known."""

    index: int
    used: int
    total: int | None


@dataclass(frozen=True, kw_only=True)
class LiveState:
    """A run at one moment. What is not known yet has its default, and is not shown."""

    phase: str
    phase_seconds: float
    """Seconds since the phase began."""
    elapsed: float
    """Seconds since the command began."""
    subject: str = ""
    """The run's id; of several runs, how many they are."""
    note: str = ""
    """The latest line of what is waited for, such as an engine's log."""
    rollouts: int = 0
    total: int = 0
    """Rollouts of the run when it is finished; 0 while that is not known."""
    eta_seconds: float | None = None
    shards: int = 0
    """Shards that have their scores."""
    num_shards: int = 0
    tokens_per_second: float | None = None
    """Mean of this session."""
    speeds: tuple[float, ...] = ()
    """Tokens per second of the last minutes, the latest last."""
    running: int | None = None
    """Sequences that the engines work on."""
    waiting: int = 0
    kv_cache: float | None = None
    """Share (of 1) of the KV cache in use, on average over the engines."""
    engines: str = ""
    """How many engines or nodes work, where that says something."""
    gpus: tuple[GpuMemory, ...] = ()
    rewards: tuple[RewardRow, ...] = ()
    """The highest first."""
    truncated: float | None = None
    """Share (of 1) of the scored shards' rollouts."""
    zero_variance: float | None = None
    """Share (of 1) of their groups whose rewards are all equal."""
    restarts: int = 0
    oom: str = ""
    """What running out of memory has changed."""
