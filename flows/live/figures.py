"""The figures of a run that generates, for its panel: from the pool's counters, telemetry and scored shards."""

import dataclasses
import logging
import re
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from flows.live.state import GpuMemory, LiveState, RewardRow
from flows.live.watch import with_phase
from flows.reporting.progress import Progress
from tasks.fleet.node_pool import ShardPool
from tasks.generation.replica_pool import ReplicaPool
from tasks.node.telemetry import Sample
from tasks.results.rewards_so_far import SoFar

logger = logging.getLogger(__name__)

GENERATION = "generating"
"""The phase in which these figures tell loading, generating and scoring apart."""
SPEED_SECONDS = 1.0
"""The shortest time over which a speed is measured."""
_SPEEDS = 120
REWARDS_SHARE = 0.02
"""Largest share of a processor's time that goes into means and intervals, until all shards are scored."""
_TAIL_BYTES = 4_096
_LOG_PREFIX = re.compile(r"^.*?\b(?:INFO|WARNING|ERROR|DEBUG) \d\d-\d\d [\d:]+ \[[^\]]*\] ")
_STYLE = re.compile(r"\x1b\[[0-9;]*m")
_CONTINUED = re.compile(r"(?:\([^()]*\) )?\s")
"""A line that belongs to the one before, such as the source line of a warning. Those of engine cores have a prefix."""


class Figures:
    """Fills the states of a panel. The panel's thread calls ``fill``, the sampler's thread ``sampled``."""

    def __init__(
        self,
        progress: Progress,
        *,
        subject: str,
        names: Mapping[str, str] | None = None,
        num_shards: int,
        logs: Path,
        gpu_bytes: Mapping[int, int | None],
    ) -> None:
        """``logs`` is where the engines' logs are, ``gpu_bytes`` the memory of each GPU by its index.

        ``names`` are what several runs are called, by run id, in their order; else the rows are arms.
        """
        self._progress = progress
        self._subject = subject
        self._names = names or {}
        self._num_shards = num_shards
        self._logs = logs
        self._gpu_bytes = dict(gpu_bytes)
        self._sample: Sample = ()
        self._speeds: deque[float] = deque(maxlen=_SPEEDS)
        self._counted: tuple[float, int] | None = None
        self._so_far = SoFar((), None, None)
        self._read = 0
        self._due = 0.0
        self.pool: ShardPool | None = None
        """The pool while it works."""

    def sampled(self, sample: Sample) -> None:
        self._sample = sample

    def fill(self, state: LiveState) -> LiveState:
        progress = self._progress
        self._count_rewards()
        figures = dataclasses.replace(
            self._of_phase(state),
            subject=self._subject,
            rollouts=progress.done,
            total=progress.total,
            shards=progress.rewards.num_shards,
            num_shards=self._num_shards,
            rewards=self._rows(),
            truncated=self._so_far.truncated,
            zero_variance=self._so_far.zero_variance,
        )
        return figures if self.pool is None else self._of_pool(figures, self.pool)

    def _rows(self) -> tuple[RewardRow, ...]:
        """Return the arms, the highest reward first, or the runs in their order."""
        rows, order = self._so_far.rows, list(self._names)
        return tuple(
            RewardRow(
                self._names.get(row.arm_id, row.arm_id),
                row.mean_reward,
                row.interval.low if row.interval else None,
                row.interval.high if row.interval else None,
                row.rollouts,
            )
            for row in (sorted(rows, key=lambda row: order.index(row.arm_id)) if order else rows)
        )

    def _of_phase(self, state: LiveState) -> LiveState:
        if state.phase != GENERATION or self.pool is None:
            return state
        progress, began = self._progress, self._progress.began
        if progress.done == progress.total:
            return dataclasses.replace(state, phase="scoring")
        if began is None:
            return with_phase(state, "loading engine", state.phase_seconds, last_line(self._logs))
        return with_phase(state, GENERATION, time.monotonic() - began)

    def _of_pool(self, state: LiveState, pool: ShardPool) -> LiveState:
        self._measure_speed()
        gpus = [row for row in self._sample if row["source"] == "gpu" and row["memory_used"] is not None]
        generating = self._progress.began is not None
        load = pool.load
        return dataclasses.replace(
            state,
            eta_seconds=self._progress.eta_seconds,
            tokens_per_second=self._progress.tokens_per_second if generating else None,
            speeds=tuple(self._speeds),
            running=load.running if generating else None,
            waiting=load.waiting,
            kv_cache=load.kv_cache_usage if generating else None,
            gpus=tuple(GpuMemory(row["index"], row["memory_used"], self._gpu_bytes.get(row["index"])) for row in gpus),
            engines=_engines(pool),
            restarts=pool.restarts,
            oom=_oom(pool),
        )

    def _measure_speed(self) -> None:
        now, tokens = time.monotonic(), self._progress.tokens
        if self._progress.began is None:
            return
        before, counted = self._counted or (self._progress.began, 0)
        if now - before >= SPEED_SECONDS:
            self._speeds.append(max(0, tokens - counted) / (now - before))
            self._counted = now, tokens

    def _count_rewards(self) -> None:
        """Make means and intervals anew when there are more shards, and as often as their cost allows."""
        num_shards = self._progress.rewards.num_shards
        is_due = time.monotonic() >= self._due or num_shards == self._num_shards
        if num_shards > self._read and is_due:
            began = time.thread_time()
            self._so_far, self._read = self._progress.rewards.figures(), num_shards
            self._due = time.monotonic() + (time.thread_time() - began) / REWARDS_SHARE


def last_line(logs: Path) -> str:
    """Return the last message of the log that was written last, without what vLLM puts before it."""
    try:
        latest = max(logs.rglob("*.log"), key=lambda path: path.stat().st_mtime, default=None)
        if latest is None:
            return ""
        with latest.open("rb") as file:
            file.seek(max(0, latest.stat().st_size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    lines = [line for line in re.split(r"[\r\n]+", _STYLE.sub("", text)) if line and not _CONTINUED.match(line)]
    return _LOG_PREFIX.sub("", lines[-1]).strip() if lines else ""


def _engines(pool: ShardPool) -> str:
    if not isinstance(pool, ReplicaPool):
        return f"{pool.num_working:,} node{'s' * (pool.num_working != 1)}"
    replicas = pool.status()
    ready = sum(replica.ready for replica in replicas)
    return f"{ready}/{len(replicas)} engines ready" if len(replicas) > 1 else ""


def _oom(pool: ShardPool) -> str:
    if not isinstance(pool, ReplicaPool):
        times = pool.num_rung_changes
        return f"out of memory: {times:,} smaller batch{'es' * (times > 1)}" if times else ""
    rung = pool.rung
    return f"OOM rung {rung.index}: {rung.question_batch_size:,} questions in flight" if rung.index else ""
