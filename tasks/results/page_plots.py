"""Draws the plots of the report page: reward by arm, completion lengths, and the hardware over time."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tasks.plain_text import clock, one_line
from tasks.results.page_timeline import Timeline
from tasks.results.reward_interval import Interval
from tasks.results.svg import BLUE, FONT_PX, GREY, ORANGE, RED, Scale, label, line, polyline, svg, tag, text, ticks

WIDTH = 520
_ROW = 26
_PANEL = 110


@dataclass(frozen=True, kw_only=True)
class ArmPoint:
    """The mean reward of one arm, with its interval if there is one."""

    name: str
    mean: float
    interval: Interval | None


@dataclass(frozen=True, kw_only=True)
class StepSeries:
    """The mean rewards of one arm, with their intervals, by step."""

    name: str
    points: tuple[tuple[int, float, Interval | None], ...]


@dataclass(frozen=True, kw_only=True)
class LengthBins:
    """A histogram of completion lengths, with bins of equal width."""

    edges: tuple[float, ...]
    """Edges of the bins, in tokens: one more than there are bins."""
    ended: tuple[int, ...]
    """Completions per bin that ended by themselves."""
    truncated: tuple[int, ...]
    """Completions per bin that max_tokens cut off."""


def reward_plot(points: Sequence[ArmPoint]) -> Markup:
    """Draw the mean rewards with their intervals, one row per arm, in the order given."""
    ends = [end for point in points if point.interval for end in (point.interval.low, point.interval.high)]
    means = [point.mean for point in points]
    low, high = min([0.0, *ends, *means]), max([1.0, *ends, *means])
    x = Scale(low=low, high=high, start=150, end=WIDTH - 20)
    bottom = _ROW * len(points) + 14
    parts = [_grid_x(x, tick, 8, bottom) for tick in ticks(low, high)]
    for row, point in enumerate(points):
        y = _ROW * row + 22
        parts.append(text(140, y + 4, one_line(point.name, 20), "end"))
        if point.interval:
            parts.append(line(x(point.interval.low), y, x(point.interval.high), y, BLUE, 3))
        parts.append(tag("circle", cx=x(point.mean), cy=float(y), r=5, fill=BLUE))
    parts.append(text((x.start + x.end) / 2, bottom + 34, "mean reward, 95% interval", "middle", GREY))
    summary = ", ".join(f"{one_line(point.name, 24)} {point.mean:.3f}" for point in points)
    return svg(WIDTH, bottom + 42, f"Mean reward by arm: {summary}", parts)


def length_plot(bins: LengthBins) -> Markup:
    """Draw the histogram, with truncated completions stacked on those that ended by themselves."""
    tallest = max((a + b for a, b in zip(bins.ended, bins.truncated, strict=True)), default=0) or 1
    x = Scale(low=bins.edges[0], high=bins.edges[-1], start=62, end=WIDTH - 14)
    y = Scale(low=0, high=tallest, start=190, end=24)
    parts = [_grid_y(y, tick, x) for tick in ticks(0, tallest, 4)]
    for index, (ended, truncated) in enumerate(zip(bins.ended, bins.truncated, strict=True)):
        left, right = x(bins.edges[index]), x(bins.edges[index + 1])
        for low, high, fill in ((0, ended, BLUE), (ended, ended + truncated, ORANGE)):
            if high > low:
                parts.append(
                    tag("rect", x=left, y=y(high), width=max(0.5, right - left - 1), height=y(low) - y(high), fill=fill)
                )
    parts += [text(x(tick), 208, label(tick), "middle", GREY) for tick in ticks(bins.edges[0], bins.edges[-1], 6)]
    parts.append(text((x.start + x.end) / 2, 228, "completion tokens", "middle", GREY))
    parts += [*_key(62, 2, "ended by itself", BLUE), *_key(216, 2, "cut off by max_tokens", ORANGE)]
    cut = sum(bins.truncated)
    return svg(
        WIDTH,
        236,
        f"Histogram of completion lengths: {sum(bins.ended):,} ended by themselves, {cut:,} were cut off",
        parts,
    )


def timeline_plot(timeline: Timeline) -> Markup:
    """Draw one panel per measure over the time that engines were up, and mark failures and restarts."""
    x = Scale(low=0.0, high=timeline.seconds or 1.0, start=62, end=WIDTH - 14)
    parts: list[Markup] = []
    for index, panel in enumerate(timeline.panels):
        top = index * _PANEL + 24
        y = Scale(low=0.0, high=panel.highest or 1.0, start=top + _PANEL - 36, end=top)
        parts += [_grid_y(y, tick, x) for tick in ticks(0.0, panel.highest or 1.0, 3)]
        parts += [polyline([(x(at), y(value)) for at, value in run], BLUE) for run in panel.runs()]
    bottom = len(timeline.panels) * _PANEL
    for mark in timeline.marks:
        colour = RED if mark.kind == "oom" else GREY
        at = x(mark.seconds)
        parts.append(
            tag("g", Markup("").join([tag("title", mark.text), line(at, 20, at, bottom - 12, colour, 1.5, "4 3")]))
        )
    parts += [text(x.start, index * _PANEL + 16, panel.name) for index, panel in enumerate(timeline.panels)]
    parts += [text(x(tick), bottom + 10, clock(tick), "middle", GREY) for tick in ticks(0.0, x.high, 6)]
    parts.append(text((x.start + x.end) / 2, bottom + 30, "time with engines up", "middle", GREY))
    kinds = {mark.kind for mark in timeline.marks}
    if "oom" in kinds:
        parts += _key(62, bottom + 40, "out of memory", RED)
    if kinds - {"oom"}:
        parts += _key(216, bottom + 40, "engine or session started again", GREY)
    marked = f"; {len(timeline.marks)} failures or restarts are marked" if timeline.marks else ""
    names = ", ".join(panel.name for panel in timeline.panels)
    return svg(WIDTH, bottom + (58 if kinds else 38), f"Over {clock(timeline.seconds)}: {names}{marked}", parts)


def step_plot(series: Sequence[StepSeries]) -> Markup:
    """Draw the mean reward of each arm over the steps, one panel per arm, all with the same scales."""
    points = [point for each in series for point in each.points]
    ends = [end for _, _, interval in points if interval for end in (interval.low, interval.high)]
    means, steps = [mean for _, mean, _ in points], [step for step, _, _ in points]
    low, high = min([0.0, *ends, *means]), max([1.0, *ends, *means])
    x = Scale(low=min(steps, default=0), high=max(steps, default=1), start=62, end=WIDTH - 24)
    parts: list[Markup] = []
    for index, each in enumerate(series):
        top = index * _PANEL + 24
        y = Scale(low=low, high=high, start=top + _PANEL - 36, end=top)
        parts += [_grid_y(y, tick, x) for tick in ticks(low, high, 3)]
        parts.append(text(x.start, top - 8, one_line(each.name, 40)))
        parts.append(polyline([(x(step), y(mean)) for step, mean, _ in each.points], BLUE))
        for step, mean, interval in each.points:
            if interval:
                parts.append(line(x(step), y(interval.low), x(step), y(interval.high), BLUE, 2))
            parts.append(tag("circle", cx=x(step), cy=y(mean), r=4, fill=BLUE))
    bottom = len(series) * _PANEL
    parts += [text(x(tick), bottom + 10, label(tick), "middle", GREY) for tick in ticks(x.low, x.high, 6)]
    parts.append(text((x.start + x.end) / 2, bottom + 30, "step; mean reward, 95% interval", "middle", GREY))
    names = ", ".join(one_line(each.name, 24) for each in series)
    return svg(WIDTH, bottom + 38, f"Mean reward by step: {names}", parts)


def _grid_x(x: Scale, tick: float, top: float, bottom: float) -> Markup:
    return line(x(tick), top, x(tick), bottom) + text(x(tick), bottom + 16, label(tick), "middle", GREY)


def _grid_y(y: Scale, tick: float, x: Scale) -> Markup:
    return line(x.start, y(tick), x.end, y(tick)) + text(x.start - 8, y(tick) + 4, label(tick), "end", GREY)


def _key(left: float, top: float, words: str, colour: str) -> tuple[Markup, Markup]:
    square = tag("rect", x=left, y=top, width=10, height=10, fill=colour)
    return square, text(left + 15, top + FONT_PX - 3, words)
