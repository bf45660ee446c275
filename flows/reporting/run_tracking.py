"""What trackers are told of each run of a collection, from the data that the run has anyway.

The step of a series is the number of finished rollouts: a resumed run goes on where it was, and runs on other hardware
can be laid over each other. Trackers show the time of each value as well.
"""

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import polars as pl

from flows.reporting.progress import Progress
from flows.reporting.tracker_process import TrackerProcess
from flows.reporting.tracker_targets import TrackerTarget
from tasks.errors import HarvestError
from tasks.files import read_json
from tasks.fleet.node_pool import ShardPool
from tasks.generation.replica_pool import ReplicaPool
from tasks.node.telemetry import load_telemetry
from tasks.plan.run_plan import RunPlan
from tasks.results.metrics import mean
from tasks.results.rewards_so_far import SoFar
from tasks.results.run_report import RunReport
from tasks.time_limits import time_limit
from tasks.units import GIB

LIVE_SECONDS = 10.0
"""The shortest time between two values of a series."""
END_SECONDS = 30.0
"""At its end a flow waits this long for the trackers, all together."""

_DEVICE_COLUMNS = (("memory_used", "memory_gib", GIB), ("utilization_percent", "utilization_percent", 1))

Values = dict[str, float]


class RunTracking:
    """Logs the runs of ``plans`` to the trackers ``log_to``. Use it as a context manager on the flow's main thread."""

    def __init__(
        self,
        plans: Sequence[RunPlan],
        log_to: Sequence[str],
        warn: Callable[[str], None],
        *,
        end_seconds: float = END_SECONDS,
    ) -> None:
        first = plans[0]
        self._tell = warn
        self._end_seconds = time_limit(end_seconds)
        targets = [TrackerTarget.read(text) for text in dict.fromkeys(log_to)]
        logs = [first.paths.logs / f"tracker-{number}-{target.tracker}.log" for number, target in enumerate(targets)]
        self._trackers = [TrackerProcess(*each, self._end_seconds) for each in zip(targets, logs, strict=True)]
        self._runs = {plan.run_id: _TrackedRun(plan, first.run_id) for plan in plans}
        self._told: set[TrackerProcess] = set()
        self._due = 0.0

    def live(self, progress: Progress, pool: ShardPool, *, now: bool = False) -> None:
        """Log how far the runs are. Of several calls within ``LIVE_SECONDS`` only the first counts."""
        self._warn()
        if self._is_idle or (not now and time.monotonic() < self._due):
            return
        self._due = time.monotonic() + LIVE_SECONDS
        several = len(self._runs) > 1
        for run_id, run in self._runs.items():
            step = progress.rewards.num_rollouts_of(run_id) if several else progress.done
            if progress.began is not None and step > run.step:
                shared = self._guarded(lambda: _engine_values(progress, pool) | self._hardware())
                self._send(
                    run, step, {"progress/rollouts": step} | shared | _reward_values(progress.rewards.figures(run_id))
                )
            # what was finished before this session was logged then
            run.step = step

    def finish(self, report: RunReport) -> None:
        """Log the summary of a run."""
        if not self._is_idle:
            run = self._runs[report.run_id]
            text = {"report": str(run.plan.paths.report_html.resolve())}
            self._send(run, report.num_rollouts, report_values(report), text)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        was_signalled = error is not None and not isinstance(error, Exception)
        deadline = time.monotonic() + (1.0 if was_signalled else self._end_seconds)
        for tracker in self._trackers:
            tracker.end()
        for tracker in self._trackers:
            tracker.close(max(0.0, deadline - time.monotonic()))
        if not was_signalled:
            self._warn()

    @property
    def _is_idle(self) -> bool:
        return all(tracker.failure is not None for tracker in self._trackers)

    def _send(self, run: "_TrackedRun", step: int, values: Values, text: dict[str, str] | None = None) -> None:
        if begin := self._guarded(lambda: run.begin):
            message = {"run_id": run.plan.run_id, "begin": begin, "step": step, "values": values, "text": text}
            for tracker in self._trackers:
                tracker.send(message)

    def _guarded(self, read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return what ``read`` returns; nothing when a file of the run cannot be read, which others report."""
        try:
            return read()
        except (HarvestError, OSError, pl.exceptions.PolarsError):
            return {}

    def _hardware(self) -> Values:
        """Return the last published sample of the devices, which is at most about a minute old."""
        frame = load_telemetry(next(iter(self._runs.values())).plan.paths.telemetry)
        devices = frame.filter(pl.col("source") != "replica")
        last = devices.filter(pl.col("time") == pl.col("time").max())
        return {
            f"{source}/{name}": value / scale
            for source in last["source"].unique()
            for column, name, scale in _DEVICE_COLUMNS
            if (value := mean(last.filter(pl.col("source") == source)[column])) is not None
        }

    def _warn(self) -> None:
        for tracker in self._trackers:
            if tracker.failure is not None and tracker not in self._told:
                self._told.add(tracker)
                self._tell(
                    f"warning: nothing more is logged to {tracker.target.text}: {tracker.failure}. The run goes on; "
                    f"see {tracker.log}"
                )


class _TrackedRun:
    """A run, and the step that was logged last."""

    def __init__(self, plan: RunPlan, group: str) -> None:
        self.plan = plan
        self.step = 0
        self._group = group
        self._begin: dict[str, Any] | None = None

    @property
    def begin(self) -> dict[str, Any]:
        """What a tracker gets at the start of the run."""
        if self._begin is None:
            paths = self.plan.paths
            self._begin = {
                "run_id": self.plan.run_id,
                "group": self._group,
                "run_dir": str(paths.root.resolve()),
                "logs": str(paths.logs.resolve()),
                "config": read_json(paths.config),
            }
        return self._begin


def _reward_values(so_far: SoFar) -> Values:
    values = {f"reward/{arm.arm_id}": arm.mean_reward for arm in so_far.rows}
    scored = sum(arm.rollouts for arm in so_far.rows)
    if scored:
        values["reward/all"] = sum(arm.mean_reward * arm.rollouts for arm in so_far.rows) / scored
    shares = {"share/truncated": so_far.truncated, "share/zero_variance": so_far.zero_variance}
    return values | {name: share for name, share in shares.items() if share is not None}


def _engine_values(progress: Progress, pool: ShardPool) -> Values:
    """Return what the engines do now, for all runs that share them."""
    values: Values = {"speed/tokens_per_second": progress.tokens_per_second}
    load = pool.load
    if isinstance(pool, ReplicaPool):
        values["engine/oom_rung"] = pool.rung.index
    else:
        # each node has a rung of its own
        values |= {"engine/nodes": pool.num_working, "engine/smaller_batches": pool.num_rung_changes}
    return values | {
        "engine/running": load.running,
        "engine/waiting": load.waiting,
        "engine/kv_cache_use": load.kv_cache_usage,
        "engine/restarts": pool.restarts,
    }


def report_values(report: RunReport) -> Values:
    """Return the numbers of a report that a tracker keeps as the result of the run."""
    values: dict[str, float | None] = {
        "rollouts": report.num_rollouts,
        "errors": report.num_errors,
        "tokens": report.generation.tokens,
        "tokens_per_second": report.generation.tokens_per_second,
        "seconds": report.generation.seconds,
        "cost_usd": None if report.telemetry is None else report.telemetry.cost_usd,
    }
    for arm in report.all_arms:
        interval = arm.mean_reward_interval
        values |= {
            f"reward/{arm.arm_id}": arm.mean_reward,
            f"reward_low/{arm.arm_id}": None if interval is None else interval.low,
            f"reward_high/{arm.arm_id}": None if interval is None else interval.high,
            f"truncated/{arm.arm_id}": arm.truncation_rate,
            f"zero_variance/{arm.arm_id}": arm.zero_variance_share,
            **{f"pass_at_{each.k}/{arm.arm_id}": each.value for each in arm.pass_at_k},
        }
    return {name: value for name, value in values.items() if value is not None}
