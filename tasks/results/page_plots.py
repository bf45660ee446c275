"""Draws the plots of the pages: reward by arm and by step, completion lengths, and the hardware over time."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tasks.plain_text import clock, one_line
from tasks.results.page_lengths import ArmLengths, LengthBins, Spread
from tasks.results.page_timeline import Panel, Timeline
from tasks.results.reward_interval import Interval
from tasks.results.stopping_report import TENTHS, ArmPassRates
from tasks.results.svg import (
    BLUE,
    FONT_PX,
    GREY,
    ORANGE,
    RED,
    Scale,
    label,
    line,
    polyline,
    svg,
    tag,
    text,
    ticks,
    whole_ticks,
)

WIDTH = 520
_PANEL_WIDTH = 420
"""Three of them stand beside each other."""
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
    parts = [_grid_y(y, tick, x) for tick in whole_ticks(0, tallest, 4)]
    for index, (ended, truncated) in enumerate(zip(bins.ended, bins.truncated, strict=True)):
        left, right = x(bins.edges[index]), x(bins.edges[index + 1])
        for low, high, fill in ((0, ended, BLUE), (ended, ended + truncated, ORANGE)):
            if high > low:
                parts.append(
                    tag("rect", x=left, y=y(high), width=max(0.5, right - left - 1), height=y(low) - y(high), fill=fill)
                )
    parts += [text(x(tick), 208, label(tick), "middle", GREY) for tick in whole_ticks(bins.edges[0], bins.edges[-1], 6)]
    parts.append(text((x.start + x.end) / 2, 228, "completion tokens", "middle", GREY))
    parts += [*_key(62, 2, "ended by itself", BLUE), *_key(216, 2, "cut off by max_tokens", ORANGE)]
    cut = sum(bins.truncated)
    return svg(
        WIDTH,
        236,
        f"Histogram of completion lengths: {sum(bins.ended):,} ended by themselves, {cut:,} were cut off",
        parts,
    )


def arm_length_plot(arms: Sequence[ArmLengths]) -> Markup:
    """Draw how long right and wrong completions are, one row per arm, in the order given: that of ``reward_plot``."""
    spreads = [(row, side, spread) for row, arm in enumerate(arms) for side, spread in _sides(arm)]
    longest = max((spread.p90 for _, _, spread in spreads), default=1.0)
    x = Scale(low=0.0, high=longest or 1.0, start=150, end=WIDTH - 20)
    bottom = _ROW * len(arms) + 14
    parts = [_grid_x(x, tick, 8, bottom) for tick in ticks(0.0, x.high)]
    parts += [text(140, _ROW * row + 26, one_line(arm.arm_id, 20), "end") for row, arm in enumerate(arms)]
    for row, side, spread in spreads:
        y, colour = _ROW * row + (18 if side == "right" else 26), BLUE if side == "right" else ORANGE
        parts.append(line(x(spread.p10), y, x(spread.p90), y, colour, 1.5))
        parts.append(line(x(spread.p25), y, x(spread.p75), y, colour, 5))
        parts.append(tag("circle", cx=x(spread.p50), cy=float(y), r=4, fill=colour))
    parts.append(text((x.start + x.end) / 2, bottom + 34, "completion tokens", "middle", GREY))
    parts += [*_key(8, bottom + 44, "right", BLUE), *_key(78, bottom + 44, "wrong", ORANGE)]
    parts.append(text(150, bottom + 54, "dot: median; lines: middle 50% and 80%", fill=GREY))
    medians = ", ".join(
        f"{one_line(arm.arm_id, 24)} {' and '.join(f'{side} {spread.p50:,.0f}' for side, spread in _sides(arm))}"
        for arm in arms
    )
    return svg(WIDTH, bottom + 62, f"Median completion tokens by arm: {medians}", parts)


def startup_plot(timeline: Timeline) -> Markup:
    """Draw how the time with engines up divides into starting and generating, as one bar."""
    starting = sum(timeline.startups)
    x = Scale(low=0.0, high=starting + timeline.seconds or 1.0, start=0, end=WIDTH)
    words = f"start-up {clock(starting)}", f"generating {clock(timeline.seconds)}"
    parts = [
        tag("rect", x=0, y=0, width=x(starting), height=14, fill=ORANGE),
        tag("rect", x=x(starting), y=0, width=WIDTH - x(starting), height=14, fill=BLUE),
        *_key(0, 24, words[0], ORANGE),
        *_key(200, 24, words[1], BLUE),
    ]
    return svg(WIDTH, 40, f"Time with engines up: {words[0]}, {words[1]}", parts)


def timeline_plots(timeline: Timeline) -> list[Markup]:
    """Draw each measure over the time that engines generated, with failures and restarts marked."""
    return [_panel_plot(timeline, panel) for panel in timeline.panels]


def _panel_plot(timeline: Timeline, panel: Panel) -> Markup:
    x = Scale(low=0.0, high=timeline.seconds or 1.0, start=62, end=_PANEL_WIDTH - 14)
    y = Scale(low=0.0, high=panel.highest or 1.0, start=154, end=24)
    parts = [_grid_y(y, tick, x) for tick in ticks(0.0, panel.highest or 1.0, 4)]
    parts += [_curve([(x(at), y(value)) for at, value in run]) for run in panel.runs()]
    for mark in timeline.marks:
        colour, at = RED if mark.kind == "oom" else GREY, x(mark.seconds)
        lines = [tag("title", mark.text), line(at, 20, at, 158, colour, 1.5, "4 3")]
        parts.append(tag("g", Markup("").join(lines)))
    parts.append(text(x.start, 14, panel.name))
    # a short time has several ticks in the same second
    times = {clock(tick): tick for tick in reversed(ticks(0.0, x.high, 6))}
    parts += [text(x(tick), 172, words, "middle", GREY) for words, tick in times.items()]
    parts.append(text((x.start + x.end) / 2, 192, "time of generating", "middle", GREY))
    marked = f"; {len(timeline.marks)} failures or restarts are marked" if timeline.marks else ""
    return svg(_PANEL_WIDTH, 200, f"{panel.name}, over {clock(timeline.seconds)}{marked}", parts)


def pass_rate_plot(arms: Sequence[ArmPassRates]) -> Markup:
    """Draw how many groups of each arm have which share of right rollouts, one row per arm, in the order given."""
    x = Scale(low=0, high=TENTHS + 2, start=150, end=WIDTH - 20)
    most = max((count for arm in arms for count in arm.bins), default=0) or 1
    parts: list[Markup] = []
    for row, arm in enumerate(arms):
        top = _ROW * row + 4
        parts.append(text(140, top + 17, one_line(arm.arm_id, 20), "end"))
        for place, count in enumerate(arm.bins):
            height = (_ROW - 4) * count / most
            if count:
                fill = GREY if place in (0, TENTHS + 1) else BLUE
                bar = tag("title", f"{count:,} groups")
                width = x(1) - x(0) - 2
                parts.append(
                    tag("rect", bar, x=x(place), y=top + _ROW - 4 - height, width=width, height=height, fill=fill)
                )
        parts.append(line(x.start, top + _ROW - 3, x.end, top + _ROW - 3))
    bottom = _ROW * len(arms) + 4
    labels = {0.5: "0", **{place: f"{(place - 1) / TENTHS:g}" for place in (3.0, 5.0, 7.0, 9.0)}, 11.5: "1"}
    parts += [text(x(place), bottom + 16, words, "middle", GREY) for place, words in labels.items()]
    parts.append(text((x.start + x.end) / 2, bottom + 34, "share of right rollouts in a group; groups", "middle", GREY))
    words = (f"{one_line(arm.arm_id, 24)} {arm.never:,} never and {arm.always:,} always right" for arm in arms)
    return svg(WIDTH, bottom + 42, f"Groups by their share of right rollouts: {', '.join(words)}", parts)


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
    parts += [text(x(tick), bottom + 10, label(tick), "middle", GREY) for tick in whole_ticks(x.low, x.high, 6)]
    parts.append(text((x.start + x.end) / 2, bottom + 30, "step; mean reward, 95% interval", "middle", GREY))
    names = ", ".join(one_line(each.name, 24) for each in series)
    return svg(WIDTH, bottom + 38, f"Mean reward by step: {names}", parts)


def _curve(points: list[tuple[float, float]]) -> Markup:
    [(left, top), *others] = points
    return polyline(points, BLUE) if others else tag("circle", cx=left, cy=top, r=3, fill=BLUE)


def _sides(arm: ArmLengths) -> list[tuple[str, Spread]]:
    return [(side, spread) for side, spread in (("right", arm.right), ("wrong", arm.wrong)) if spread]


def _grid_x(x: Scale, tick: float, top: float, bottom: float) -> Markup:
    return line(x(tick), top, x(tick), bottom) + text(x(tick), bottom + 16, label(tick), "middle", GREY)


def _grid_y(y: Scale, tick: float, x: Scale) -> Markup:
    return line(x.start, y(tick), x.end, y(tick)) + text(x.start - 8, y(tick) + 4, label(tick), "end", GREY)


def _key(left: float, top: float, words: str, colour: str) -> tuple[Markup, Markup]:
    square = tag("rect", x=left, y=top, width=10, height=10, fill=colour)
    return square, text(left + 15, top + FONT_PX - 3, words)
