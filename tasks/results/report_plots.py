"""The report's plots: reward by arm, completion lengths, and what the hardware did over time."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from tasks.plain_text import one_line
from tasks.results.report_timeline import Timeline

# MERGED from @report_svg: Small plots as SVG text: nothing is loaded, drawn by script or taken from a model unescaped.
BLUE, ORANGE, GREY, RED = "#1f5fa8", "#b35900", "#6b7280", "#a11212"
FONT_PX = 13


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Maps values in [low, high] to pixels from ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low or 1.0
        return self.start + (value - self.low) / span * (self.end - self.start)


def tag(name: str, content: object = "", **attributes: object) -> Markup:
    """One element; attribute names have ``_`` for ``-``, and every value is escaped."""
    pairs = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_number(value))}"' for key, value in attributes.items()
    )
    return Markup(f"<{name}{pairs}>{escape(content)}</{name}>")


def svg(width: int, height: int, title: str, parts: Iterable[Markup]) -> Markup:
    """A picture with its title as text alternative; it grows and shrinks with the page."""
    return tag(
        "svg",
        Markup("").join([tag("title", title), *parts]),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_label=title,
    )


def text(x: float, y: float, words: object, anchor: str = "start", fill: str = "#1b1f24") -> Markup:
    return tag("text", words, x=x, y=y, text_anchor=anchor, fill=fill, font_size=FONT_PX)


def line(
    x1: float, y1: float, x2: float, y2: float, stroke: str = "#c9ced6", width: float = 1, dash: str = ""
) -> Markup:
    extra = {"stroke_dasharray": dash} if dash else {}
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, stroke=stroke, stroke_width=width, **extra)


def polyline(points: Sequence[tuple[float, float]], stroke: str) -> Markup:
    joined = " ".join(f"{_number(x)},{_number(y)}" for x, y in points)
    return tag("polyline", points=joined, fill="none", stroke=stroke, stroke_width=1.5)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round values within [low, high]."""
    if high <= low:
        return [low]
    raw = (high - low) / max(1, count)
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def label(value: float) -> str:
    """A tick's text: 1200 is 1,200, 0.25 is 0.25."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:g}"


def _number(value: object) -> object:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value


# END MERGED
WIDTH = 520
_ROW = 26
_PANEL = 110


@dataclass(frozen=True, kw_only=True)
class ArmPoint:
    """Mean reward of one arm and its interval, where it has one."""

    name: str
    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class LengthBins:
    """Completion lengths in equal bins: edges in tokens (one more than counts), ended by themselves or cut off."""

    edges: tuple[float, ...]
    ended: tuple[int, ...]
    truncated: tuple[int, ...]


def reward_plot(points: Sequence[ArmPoint]) -> Markup:
    """Mean rewards with their intervals, one row per arm, in the order given."""
    values = [value for point in points for value in (point.mean, point.low, point.high) if value is not None]
    low, high = min(0.0, *values), max(1.0, *values)
    x = Scale(low=low, high=high, start=150, end=WIDTH - 20)
    bottom = _ROW * len(points) + 14
    parts = [_grid_x(x, tick, 8, bottom) for tick in ticks(low, high)]
    for row, point in enumerate(points):
        y = _ROW * row + 22
        parts.append(text(140, y + 4, one_line(point.name, 20), "end"))
        if point.low is not None and point.high is not None:
            parts.append(line(x(point.low), y, x(point.high), y, BLUE, 3))
        parts.append(tag("circle", cx=x(point.mean), cy=float(y), r=5, fill=BLUE))
    parts.append(text((x.start + x.end) / 2, bottom + 34, "mean reward, 95% interval", "middle", GREY))
    summary = ", ".join(f"{one_line(point.name, 24)} {point.mean:.3f}" for point in points)
    return svg(WIDTH, bottom + 42, f"Mean reward by arm: {summary}", parts)


def length_plot(bins: LengthBins) -> Markup:
    """A histogram of completion lengths, what was cut off stacked on what ended by itself."""
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
    """Utilization, memory and tokens per second over the time that engines were up, with failures marked."""
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
    parts += [text(x(tick), bottom + 10, _clock(tick), "middle", GREY) for tick in ticks(0.0, x.high, 6)]
    parts.append(text((x.start + x.end) / 2, bottom + 30, "time with engines up", "middle", GREY))
    kinds = {mark.kind for mark in timeline.marks}
    if "oom" in kinds:
        parts += _key(62, bottom + 40, "out of memory", RED)
    if kinds - {"oom"}:
        parts += _key(216, bottom + 40, "engine or session started again", GREY)
    marked = f"; {len(timeline.marks)} failures or restarts are marked" if timeline.marks else ""
    names = ", ".join(panel.name for panel in timeline.panels)
    return svg(WIDTH, bottom + (58 if kinds else 38), f"Over {_clock(timeline.seconds)}: {names}{marked}", parts)


def _grid_x(x: Scale, tick: float, top: float, bottom: float) -> Markup:
    return line(x(tick), top, x(tick), bottom) + text(x(tick), bottom + 16, label(tick), "middle", GREY)


def _grid_y(y: Scale, tick: float, x: Scale) -> Markup:
    return line(x.start, y(tick), x.end, y(tick)) + text(x.start - 8, y(tick) + 4, label(tick), "end", GREY)


def _key(left: float, top: float, words: str, colour: str) -> tuple[Markup, Markup]:
    square = tag("rect", x=left, y=top, width=10, height=10, fill=colour)
    return square, text(left + 15, top + FONT_PX - 3, words)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
