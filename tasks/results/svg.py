"""Makes small plots as SVG markup, without scripts and requests, and with every text escaped."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

BLUE, ORANGE, GREY, RED = "var(--blue,#1f5fa8)", "var(--orange,#b35900)", "var(--grey,#5f6773)", "var(--red,#a11212)"
"""The page's own colours, which differ in light and dark; without a page the ones for light."""
_INK, _GRID = "var(--ink,#1b1f24)", "var(--grid,#c9ced6)"
FONT_PX = 13


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A linear map from values in [low, high] to pixels from ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low or 1.0
        return self.start + (value - self.low) / span * (self.end - self.start)


def tag(name: str, content: object = "", **attributes: object) -> Markup:
    """Return one element. In attribute names ``_`` stands for ``-``; content and values are escaped."""
    pairs = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_number(value))}"' for key, value in attributes.items()
    )
    return Markup(f"<{name}{pairs}>{escape(content)}</{name}>")


def svg(width: int, height: int, title: str, parts: Iterable[Markup]) -> Markup:
    """Return a picture of ``parts`` that scales with the page. ``title`` is its text alternative."""
    return tag(
        "svg",
        Markup("").join([tag("title", title), *parts]),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_label=title,
    )


def text(x: float, y: float, words: object, anchor: str = "start", fill: str = _INK) -> Markup:
    """Return a text whose ``anchor`` ("start", "middle" or "end") is at (x, y)."""
    return tag("text", words, x=x, y=y, text_anchor=anchor, fill=fill, font_size=FONT_PX)


def line(x1: float, y1: float, x2: float, y2: float, stroke: str = _GRID, width: float = 1, dash: str = "") -> Markup:
    extra = {"stroke_dasharray": dash} if dash else {}
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, stroke=stroke, stroke_width=width, **extra)


def polyline(points: Sequence[tuple[float, float]], stroke: str) -> Markup:
    joined = " ".join(f"{_number(x)},{_number(y)}" for x, y in points)
    return tag("polyline", points=joined, fill="none", stroke=stroke, stroke_width=1.5)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about ``count`` round values within [low, high]."""
    if high <= low:
        return [low]
    raw = (high - low) / max(1, count)
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def whole_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return those of ``ticks`` that a count can be."""
    return [tick for tick in ticks(low, high, count) if float(tick).is_integer()]


def label(value: float) -> str:
    """Return the text of a tick: 1200 becomes "1,200", 0.25 becomes "0.25"."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:g}"


def _number(value: object) -> object:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
