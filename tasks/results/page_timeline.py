"""Makes a timeline of a run's telemetry for the report page: a few hundred points, however long the run was."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import polars as pl

from tasks.generation.rung_state import RungChange
from tasks.node.telemetry import INTERVAL_S, load_telemetry
from tasks.units import GIB

POINTS = 240


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One measure over time."""

    name: str
    highest: float
    """The upper end of its axis."""
    points: tuple[tuple[float, float | None], ...]
    """(seconds, value); the value is None where it was not recorded."""

    def runs(self) -> Iterator[list[tuple[float, float]]]:
        """Return the stretches of points without a gap."""
        run: list[tuple[float, float]] = []
        for at, value in self.points:
            if value is not None:
                run.append((at, value))
            elif run:
                yield run
                run = []
        if run:
            yield run


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A failure or a restart, in seconds from the start."""

    seconds: float
    kind: Literal["oom", "restart", "session"]
    text: str


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """The sessions of a run, one directly after the other, without the time between them and without their start-up."""

    seconds: float
    startups: tuple[float, ...]
    """Seconds of each session before its first sequence ran."""
    panels: tuple[Panel, ...]
    marks: tuple[Mark, ...]


def read_timeline(path: Path, rungs: Sequence[RungChange] = ()) -> Timeline | None:
    """Return the timeline of the telemetry file ``path``, with the OOM rung changes ``rungs``; None without samples."""
    frame, startups = _without_startup(load_telemetry(path))
    if frame.is_empty():
        return None
    clock = _clock(frame)
    frame = frame.join(clock, on=["session", "time"])
    seconds = float(clock["at"].max())  # type: ignore[arg-type]
    # several samples per bucket, so that one sample more or less does not show
    points = max(1, min(POINTS, clock.height // 4))
    width = seconds / points or 1.0
    bucket = (pl.col("at") / width).floor().cast(pl.Int32).clip(0, points - 1).alias("bucket")
    devices = (
        frame.filter(pl.col("source").is_in(["gpu", "host"]))
        .group_by(bucket)
        .agg(
            pl.col("utilization_percent").mean().alias("utilization"),
            (pl.col("memory_used").mean() / GIB).alias("memory"),
        )
    )
    on_gpu = bool((frame["source"] == "gpu").any())
    rates = _tokens(frame).group_by("session", "at").agg((pl.col("grown") / pl.col("since")).sum().alias("rate"))
    tokens = rates.group_by(bucket).agg(pl.col("rate").mean().alias("tokens"))
    table = (
        pl.DataFrame({"bucket": range(points)}, schema={"bucket": pl.Int32})
        .join(devices, on="bucket", how="left")
        .join(tokens, on="bucket", how="left")
        .sort("bucket")
        .with_columns(((pl.col("bucket") + 0.5) * width).alias("at"))
    )
    names = {
        "utilization": "GPU utilization, % (mean of the GPUs)" if on_gpu else "CPU of the run, % of one core",
        "memory": "GPU memory, GiB (mean of the GPUs)" if on_gpu else "resident memory of the run, GiB",
        "tokens": "tokens/s",
    }
    panels = [
        _panel(table, name, title, 100.0 if name == "utilization" and on_gpu else 0.0) for name, title in names.items()
    ]
    return Timeline(
        seconds=seconds,
        startups=startups,
        panels=tuple(panel for panel in panels if panel is not None),
        marks=tuple(sorted([*_starts(frame, clock), *_rungs(clock, rungs)], key=lambda mark: mark.seconds)),
    )


def _without_startup(frame: pl.DataFrame) -> tuple[pl.DataFrame, tuple[float, ...]]:
    """Return the samples from each session's first running sequence on, and how many seconds were before.

    Where no session ran any, all of them stay.
    """
    runs = (pl.col("source") == "replica") & ((pl.col("running") > 0) | (pl.col("generation_tokens") > 0))
    sessions = (
        frame.group_by("session")
        .agg(
            pl.col("time").min().alias("first"),
            pl.col("time").max().alias("last"),
            pl.col("time").filter(runs).min().alias("busy"),
        )
        .sort("session")
    )
    if sessions["busy"].null_count() == sessions.height:
        return frame, ()
    startup = pl.coalesce("busy", "last") - pl.col("first")
    seconds = sessions.select(startup.dt.total_microseconds() / 1e6).to_series().to_list()
    busy = sessions.select("session", "busy").drop_nulls()
    return frame.join(busy, on="session").filter(pl.col("time") >= pl.col("busy")).drop("busy"), tuple(seconds)


def _clock(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the column ``at`` for every (session, time): seconds on the timeline."""
    moments = frame.select("session", "time").unique().sort("session", "time")
    sessions = moments.group_by("session").agg(pl.col("time").min().alias("first"), pl.col("time").max().alias("last"))
    length = (pl.col("last") - pl.col("first")).dt.total_microseconds() / 1e6
    sessions = sessions.sort("session").with_columns(length.cum_sum().shift(1, fill_value=0.0).alias("before"))
    since = (pl.col("time") - pl.col("first")).dt.total_microseconds() / 1e6
    return moments.join(sessions, on="session").select("session", "time", (since + pl.col("before")).alias("at"))


def _tokens(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the tokens that each replica generated since its last sample.

    A counter that fell belongs to an engine that was started again, so it counts from zero.
    """
    before = pl.col("generation_tokens").shift(1, fill_value=0).over("session", "index")
    fell = pl.col("generation_tokens") < before
    return (
        frame.filter(pl.col("source") == "replica")
        .sort("session", "index", "time")
        .with_columns(
            fell.alias("restarted"),
            (pl.col("at") - pl.col("at").shift(1).over("session", "index")).fill_null(INTERVAL_S).alias("since"),
            pl.when(fell).then("generation_tokens").otherwise(pl.col("generation_tokens") - before).alias("grown"),
        )
    )


def _panel(table: pl.DataFrame, name: str, title: str, least: float) -> Panel | None:
    values = table[name].to_list()
    known = [value for value in values if value is not None]
    if not known:
        return None
    points = tuple(zip(table["at"].to_list(), values, strict=True))
    return Panel(name=title, highest=max(least, *known, 1e-9), points=points)


def _starts(frame: pl.DataFrame, clock: pl.DataFrame) -> Iterator[Mark]:
    for at in clock.group_by("session").agg(pl.col("at").min())["at"].sort().to_list()[1:]:
        yield Mark(seconds=at, kind="session", text="the run was resumed")
    for at, replica in _tokens(frame).filter("restarted").select("at", "index").iter_rows():
        yield Mark(seconds=at, kind="restart", text=f"replica {replica} was started again")


def _rungs(clock: pl.DataFrame, rungs: Sequence[RungChange]) -> Iterator[Mark]:
    times = clock["time"].to_list()
    seconds = clock["at"].to_list()
    for change in rungs:
        try:
            moment = datetime.fromisoformat(change.at).astimezone(UTC)
        except (ValueError, OverflowError):
            continue  # the run may be of others, and its report may say anything
        nearest = min(range(len(times)), key=lambda index: abs((times[index] - moment).total_seconds()))
        text = f"out of {change.kind} memory: rung {change.from_rung} to {change.to_rung}"
        yield Mark(seconds=seconds[nearest], kind="oom", text=text)
