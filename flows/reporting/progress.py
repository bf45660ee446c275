"""How far a run is: its counters, the line that tells it, and messages for the log and the terminal."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from prefect.logging import get_run_logger

from flows.live.display import shown
from flows.live.lines import Lines
from tasks.plain_text import clock, visible
from tasks.results.rewards_so_far import RewardsSoFar

READ_SECONDS = 0.05
"""How long each tick of the flow may read scored shards."""


class Counters(Protocol):
    """The counters that Progress reads: those of a replica pool, or the sums over all nodes."""

    @property
    def rollouts_finished(self) -> int: ...
    @property
    def rollouts_resumed(self) -> int: ...
    @property
    def tokens_generated(self) -> int: ...
    @property
    def first_admitted_at(self) -> float | None: ...


@dataclass(kw_only=True)
class Progress:
    """How far a run is. The flow's main thread updates it. Rewards are those of the shards scored so far."""

    total: int
    done_before: int = 0
    counters: Counters | None = None
    rewards: RewardsSoFar = field(default_factory=RewardsSoFar)
    started: float = field(default_factory=time.monotonic)
    now: Callable[[], float] = time.monotonic

    @property
    def done(self) -> int:
        here = self.counters.rollouts_finished + self.counters.rollouts_resumed if self.counters else 0
        return min(self.total, self.done_before + here)

    @property
    def percent(self) -> float:
        return 100 * self.done / self.total

    @property
    def tokens_per_second(self) -> float:
        if self.counters is None or self.counters.first_admitted_at is None:
            return 0.0
        return self.counters.tokens_generated / max(1e-6, self.now() - self.counters.first_admitted_at)

    @property
    def eta_seconds(self) -> float | None:
        if self.counters is None or self.counters.first_admitted_at is None or self.counters.rollouts_finished == 0:
            return None
        rate = self.counters.rollouts_finished / max(1e-6, self.now() - self.counters.first_admitted_at)
        return (self.total - self.done) / rate

    @property
    def tokens(self) -> int:
        """Tokens that this session generated."""
        return self.counters.tokens_generated if self.counters else 0

    @property
    def began(self) -> float | None:
        """When an engine got its first request, by ``now``'s clock; None while engines load."""
        return self.counters.first_admitted_at if self.counters else None

    def line(self) -> str:
        # engines load for minutes, and 0 tokens/s would look like a run that hangs
        is_loading = self.counters is not None and self.began is None and self.done < self.total
        speed = "loading engines" if is_loading else f"{self.tokens_per_second:,.0f} tokens/s"
        parts = [f"{self.done:,}/{self.total:,} rollouts", speed]
        if self.eta_seconds is not None:
            parts.append(f"ETA {clock(self.eta_seconds)}")
        if (mean := self.rewards.mean_reward) is not None:
            parts.append(f"mean reward {mean:.3f}")
        return " · ".join(parts)


class FlowLog:
    """Writes messages to the flow run's log and to the terminal."""

    def __init__(self, display: Lines) -> None:
        self._log = get_run_logger()
        self._display = display

    def info(self, text: str) -> None:
        self._log.info(visible(text))
        self._display.print_line(text)

    def warning(self, text: str) -> None:
        self._log.warning(visible(text))
        self._display.print_line(f"warning: {text}")


def log_and_print(text: str) -> None:
    """Write ``text`` to the flow run's log and, if the command line runs the flow, to the terminal."""
    get_run_logger().info(visible(text))
    if (display := shown.get()) is not None:
        display.print_line(text)


def display_of_flow() -> Lines:
    """Return the command line's display, else lines on stderr if that is a terminal, else one that shows nothing."""
    return shown.get() or Lines(sys.stderr if sys.stderr.isatty() else None)
