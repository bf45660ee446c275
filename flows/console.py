"""Print with rich: to the terminal, or through a pager."""

import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from flows.terminal import print_json
from tasks.plain_text import visible

PIPED_WIDTH = 200
"""Columns of a file or a pipe: enough that no line is cut or folded."""

MOST_COLUMNS = 1_000
"""More than any table has."""


class PlainConsole(Console):
    """A console that takes every string literally: no markup, no emoji codes, no control characters.

    Strings are made visible before they are laid out. Other renderables are made visible in the lines that they come
    to, so they may lose their end in a narrow column.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(markup=False, emoji=False, **arguments)

    def render_str(self, text: str, **arguments: Any) -> Text:
        return super().render_str(visible(text), **arguments)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


def console() -> PlainConsole:
    """Return a console on standard output, as wide as the terminal. A file or a pipe gets PIPED_WIDTH columns."""
    return PlainConsole(width=None if sys.stdout.isatty() else PIPED_WIDTH)


def leave_out_columns(table: Table, console: Console) -> list[str]:
    """Take columns off the right end of ``table`` until the others fit the console; return their names.

    Rich would cut all columns, down to nothing for one that may be folded.
    """
    left_out: list[str] = []
    endless = console.options.update_width(MOST_COLUMNS)
    while len(table.columns) > 2 and Measurement.get(console, endless, table).maximum > console.width:
        left_out.insert(0, str(table.columns.pop().header))
    return left_out


def print_result(value: Any, view: Callable[[], RenderableType], *, json: bool, paged: bool = False) -> int:
    """Print ``value`` as JSON, or what ``view`` makes of it, ``paged`` or not; return the exit code 0."""
    if json:
        print_json(value)
    elif paged:
        print_paged(view())
    else:
        console().print(view())
    return 0


def print_paged(content: RenderableType) -> None:
    """Print ``content``; on a terminal through $PAGER, or through less when PAGER is not set."""
    console = PlainConsole()
    if not console.is_terminal:
        console.print(content)
        return
    os.environ.setdefault("LESS", "-RFX")  # keep colours; print a text that fits on one screen without the pager
    with console.pager(styles=True):
        console.print(content)
