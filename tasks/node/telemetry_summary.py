"""Summarises the telemetry of a run for report.json: means, maxima, the profile's targets, and the costs."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from profiles.schema import Profile
from tasks.node.telemetry import INTERVAL_S, load_telemetry
from tasks.units import GIB

_COUNTERS = (
    *("preemptions", "prefix_cache_hits", "prefix_cache_queries", "generation_tokens"),
    *("steps", "graph_steps"),
)
_ONE_DEVICE = ("source", "index")


@dataclass(frozen=True, kw_only=True)
class TargetResult:
    """One target of the profile, and the values that the GPUs reached. All numbers are in ``unit``."""

    name: str
    """"memory", "utilization" or "temperature"."""
    unit: str
    """"GiB", "%" or "C"."""
    low: float | None
    """Lower limit of the target; None without one."""
    high: float | None
    """Upper limit of the target; None without one."""
    lowest: float | None
    """Lowest value of a GPU; None when none was recorded."""
    highest: float | None
    """Highest value of a GPU; None when none was recorded."""
    met: bool | None
    """Whether every GPU is within the limits; None when no value was recorded."""


@dataclass(frozen=True, kw_only=True)
class TelemetrySummary:
    """The telemetry of a run in numbers. A field is None when nothing was recorded for it.

    Means are over the seconds in which sequences ran, and over devices or replicas. Maxima are over the whole time.
    """

    device: str
    """"gpu", or "host" for a run without GPUs."""
    gpus: int
    """Number of GPUs."""
    elapsed_s: float | None
    """Seconds that were recorded, start-up and failed attempts included."""
    idle_s: float | None
    """Seconds of ``elapsed_s`` in which no sequence ran."""
    utilization_percent: float | None
    """Mean utilization of a GPU; of the host in percent of one core."""
    memory_gib: float | None
    """Mean memory in use on a device, in GiB."""
    max_memory_gib: float | None
    """Largest memory in use on one device, in GiB."""
    max_temperature_c: float | None
    """Highest temperature of a GPU, in degrees Celsius."""
    power_w: float | None
    """Mean power of a GPU, in watts."""
    sm_clock_mhz: float | None
    """Mean SM clock of a GPU, in MHz."""
    event_reasons: int
    """All of NVML's clocks event reason bits that were set while sequences ran."""
    running: float | None
    """Mean number of running sequences, over all replicas together."""
    waiting: float | None
    """Mean number of waiting sequences, over all replicas together."""
    kv_cache_usage: float | None
    """Mean share (of 1) of a replica's KV cache in use."""
    max_kv_cache_usage: float | None
    """Largest share (of 1) of a replica's KV cache in use."""
    preemptions: int | None
    """Number of preempted sequences."""
    prefix_cache_hit_rate: float | None
    """Share (of 1) of the prompt tokens that were found in the prefix cache."""
    generation_tokens: int | None
    """Number of generated tokens."""
    tokens_per_s: float | None
    """Generated tokens per second in which a sequence ran."""
    gpu_seconds: float | None
    """``elapsed_s`` times ``gpus``."""
    gpu_seconds_per_rollout: float | None
    """GPU seconds per rollout."""
    gpu_seconds_per_correct: float | None
    """GPU seconds per correct rollout."""
    cost_usd: float | None
    """Cost of ``gpu_seconds`` in US dollars; None when the profile has no gpu_hour_usd."""
    cost_usd_per_correct: float | None
    """Cost per correct rollout, in US dollars."""
    targets: tuple[TargetResult, ...]
    """One entry per target of the profile."""
    graph_step_share: float | None = None
    """Share (of 1) of the engine steps that ran in a CUDA graph; None when no engine captures graphs."""
    note: str | None = None
    """How the numbers of several nodes were combined; None for one node."""

    @property
    def gpu_seconds_per_token(self) -> float | None:
        """GPU seconds per generated token while sequences ran: the starts of engines do not count."""
        if self.gpu_seconds is None or self.idle_s is None or not self.elapsed_s or not self.generation_tokens:
            return None
        return self.gpu_seconds * (1 - self.idle_s / self.elapsed_s) / self.generation_tokens

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values; ``graph_step_share`` and ``note`` only when they are set."""
        optional = ("graph_step_share", "note")
        return {name: value for name, value in asdict(self).items() if name not in optional or value is not None}


def summarize_telemetry(
    path: Path, profile: Profile, *, rollouts: int | None = None, correct: int | None = None
) -> TelemetrySummary:
    """The summary of the telemetry file ``path`` of a run with ``rollouts`` rollouts, ``correct`` of them right.

    Raises DamagedFile.
    """
    frame = load_telemetry(path)
    moments = _moments(frame)
    devices = frame.filter(pl.col("source").is_in(["gpu", "host"]))
    busy_devices = devices.join(moments.filter(pl.col("busy")), on=["session", "time"], how="semi")
    if busy_devices.is_empty():
        busy_devices = devices
    replicas = frame.filter(pl.col("source") == "replica")
    busy_replicas = replicas.join(moments.filter(pl.col("busy")), on=["session", "time"], how="semi")
    totals = _totals(replicas)
    elapsed = _sum(moments, "seconds")
    busy_s = _sum(moments.filter(pl.col("busy")), "seconds")
    gpus = devices.filter(pl.col("source") == "gpu").get_column("index").n_unique()
    gpu_seconds = elapsed * gpus if gpus else None
    hourly = profile.gpu_hour_usd
    cost = None if hourly is None or gpu_seconds is None else gpu_seconds / 3600 * hourly
    queries = totals["prefix_cache_queries"]
    return TelemetrySummary(
        device="gpu" if gpus else "host",
        gpus=gpus,
        elapsed_s=elapsed,
        idle_s=elapsed - busy_s,
        utilization_percent=_mean(busy_devices, "utilization_percent"),
        memory_gib=_scaled(_mean(busy_devices, "memory_used"), GIB),
        max_memory_gib=_scaled(_max(devices, "memory_used"), GIB),
        max_temperature_c=_max(devices, "temperature_c"),
        power_w=_mean(busy_devices, "power_w"),
        sm_clock_mhz=_mean(busy_devices, "sm_clock_mhz"),
        event_reasons=_union(busy_devices.get_column("event_reasons")),
        running=_sum_of_means(busy_replicas, "running"),
        waiting=_sum_of_means(busy_replicas, "waiting"),
        kv_cache_usage=_mean(busy_replicas, "kv_cache_usage"),
        max_kv_cache_usage=_max(replicas, "kv_cache_usage"),
        preemptions=totals["preemptions"],
        prefix_cache_hit_rate=totals["prefix_cache_hits"] / queries if queries else None,
        generation_tokens=totals["generation_tokens"],
        tokens_per_s=totals["generation_tokens"] / busy_s if busy_s else None,
        gpu_seconds=gpu_seconds,
        gpu_seconds_per_rollout=_scaled(gpu_seconds, rollouts),
        gpu_seconds_per_correct=_scaled(gpu_seconds, correct),
        cost_usd=cost,
        cost_usd_per_correct=_scaled(cost, correct),
        graph_step_share=totals["graph_steps"] / totals["steps"] if totals["steps"] else None,
        targets=_targets(profile, devices.filter(pl.col("source") == "gpu"), busy_devices),
    )


def _moments(frame: pl.DataFrame) -> pl.DataFrame:
    """One row per sample time: the seconds that it stands for, and whether a sequence ran."""
    return (
        frame.group_by("session", "time")
        .agg((pl.col("running").sum() > 0).alias("busy"))
        .sort("session", "time")
        .with_columns(
            # a sample counts for the time until the next one, and the last of a session for one interval
            (pl.col("time").shift(-1).over("session") - pl.col("time"))
            .dt.total_microseconds()
            .truediv(1e6)
            .fill_null(INTERVAL_S)
            .alias("seconds")
        )
    )


def _totals(replicas: pl.DataFrame) -> dict[str, int]:
    """The growth of the counters; a replica that restarted counts from zero again."""
    ordered = replicas.sort("session", "index", "time")
    growth = []
    for name in _COUNTERS:
        before = pl.col(name).shift(1, fill_value=0).over("session", "index")
        step = pl.when(pl.col(name) < before).then(pl.col(name)).otherwise(pl.col(name) - before)
        growth.append(step.sum().alias(name))
    return {name: int(value or 0) for name, value in ordered.select(growth).row(0, named=True).items()}


def _targets(profile: Profile, gpus: pl.DataFrame, busy: pl.DataFrame) -> tuple[TargetResult, ...]:
    targets = profile.targets
    results = []
    if targets.gpu_memory_gib is not None:
        results.append(_target("memory", "GiB", targets.gpu_memory_gib, _per_gpu(busy, "memory_used", GIB)))
    if targets.gpu_utilization_percent is not None:
        values = _per_gpu(busy, "utilization_percent", 1)
        results.append(_target("utilization", "%", targets.gpu_utilization_percent, values))
    if targets.max_temperature_c is not None:
        hottest = gpus.group_by(_ONE_DEVICE).agg(pl.col("temperature_c").max()).get_column("temperature_c")
        results.append(_target("temperature", "C", (None, targets.max_temperature_c), _known(hottest)))
    return tuple(results)


def _target(name: str, unit: str, bounds: tuple[float | None, float | None], values: list[float]) -> TargetResult:
    low, high = bounds
    lowest, highest = min(values, default=None), max(values, default=None)
    met = None
    if lowest is not None and highest is not None:
        met = (low is None or lowest >= low) and (high is None or highest <= high)
    return TargetResult(name=name, unit=unit, low=low, high=high, lowest=lowest, highest=highest, met=met)


def _per_gpu(busy: pl.DataFrame, column: str, scale: float) -> list[float]:
    gpus = busy.filter(pl.col("source") == "gpu")
    return [value / scale for value in _known(gpus.group_by(_ONE_DEVICE).agg(pl.col(column).mean()).get_column(column))]


def _known(values: pl.Series) -> list[float]:
    return [float(value) for value in values if value is not None]


def _mean(frame: pl.DataFrame, column: str) -> float | None:
    return _number(frame.select(pl.col(column).mean()).item())


def _max(frame: pl.DataFrame, column: str) -> float | None:
    return _number(frame.select(pl.col(column).max()).item())


def _sum(frame: pl.DataFrame, column: str) -> float:
    return float(frame.select(pl.col(column).sum()).item())


def _sum_of_means(frame: pl.DataFrame, column: str) -> float | None:
    """The mean over time of the sum over replicas."""
    return _number(frame.group_by("session", "time").agg(pl.col(column).sum()).select(pl.col(column).mean()).item())


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _union(bits: pl.Series) -> int:
    union = 0
    for value in bits.drop_nulls().unique():
        union |= int(value)
    return union


def _scaled(value: float | None, divisor: float | None) -> float | None:
    return None if value is None or not divisor else value / divisor
