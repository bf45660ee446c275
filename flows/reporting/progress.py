"""Shows the progress of a run: its counters, the line on the terminal, and messages for the log."""

import sys
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TextIO

import polars as pl
from prefect.logging import get_run_logger

from flows.terminal import print_text
from tasks.plain_text import clock, visible

console_output: ContextVar[TextIO | None] = ContextVar("console_output", default=None)
"""Where the command line shows progress; None under a Prefect worker."""

LINE_SECONDS = 10.0
"""Time between two progress lines where the output is no terminal."""


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
    reward_sum: float = 0.0
    reward_count: int = 0
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
    def mean_reward(self) -> float | None:
        return self.reward_sum / self.reward_count if self.reward_count else None

    def add_scores(self, path: Path) -> None:
        rewards = pl.read_parquet(path, columns=["reward"], glob=False)["reward"].drop_nulls()
        self.reward_sum += float(rewards.cast(pl.Float64).sum())
        self.reward_count += len(rewards)

    def line(self) -> str:
        parts = [f"{self.done:,}/{self.total:,} rollouts", f"{self.tokens_per_second:,.0f} tokens/s"]
        if self.eta_seconds is not None:
            parts.append(f"ETA {clock(self.eta_seconds)}")
        if self.mean_reward is not None:
            parts.append(f"mean reward {self.mean_reward:.3f}")
        return " · ".join(parts)


class ProgressDisplay:
    """Shows a Progress: one line that is rewritten on a terminal, one line every ten seconds elsewhere."""

    def __init__(self, progress: Progress, stream: TextIO | None, *, in_place: bool = True) -> None:
        """``in_place`` is False where others write to the terminal as well: each line is one of its own then."""
        self._progress = progress
        self._stream = stream
        self._live = in_place and stream is not None and stream.isatty()
        self._shown_at = time.monotonic()
        self._drawn = False

    def refresh(self) -> None:
        if self._stream is None:
            return
        if self._live:
            self._stream.write(f"\r\x1b[K{self._progress.line()}")
            self._stream.flush()
            self._drawn = True
        elif time.monotonic() - self._shown_at >= LINE_SECONDS:
            self._shown_at = time.monotonic()
            self.print_line(self._progress.line())

    def print_line(self, text: str) -> None:
        """Print ``text`` as a line of its own, above the progress line."""
        if self._stream is None:
            return
        start = "\r\x1b[K" if self._drawn else ""
        self._drawn = False
        self._stream.write(start)
        print_text(text, self._stream)
        self._stream.flush()

    def close(self) -> None:
        if self._drawn:
            self.print_line(self._progress.line())


class FlowLog:
    """Writes messages to the flow run's log and to the terminal, above the progress line."""

    def __init__(self, display: ProgressDisplay) -> None:
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
    if (stream := console_output.get()) is not None:
        print_text(text, stream)
        stream.flush()


def open_display(progress: Progress) -> ProgressDisplay:
    """Return a display on the command line's output, else, beside Prefect's log, on stdout if that is a terminal."""
    if (console := console_output.get()) is not None:
        return ProgressDisplay(progress, console)
    return ProgressDisplay(progress, sys.stdout if sys.stdout.isatty() else None, in_place=False)
