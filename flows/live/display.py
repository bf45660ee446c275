"""Where a run's command shows what it does: as lines, or on a terminal as a panel with the messages above it.

Importing it takes neither Prefect nor Polars, so that a terminal shows something at once.
"""

import os
import sys
from contextvars import ContextVar

from flows.live.lines import Lines

shown: ContextVar[Lines | None] = ContextVar("shown", default=None)
"""Where the command line shows progress; None under a Prefect worker."""


def open_display(*, lines: bool) -> Lines:
    """Return a panel if standard error is a terminal that can redraw; otherwise, or if ``lines`` says so, lines."""
    # what a terminal is called that knows no escape codes
    if lines or not sys.stderr.isatty() or os.environ.get("TERM", "dumb") in ("", "dumb", "unknown"):
        return Lines(sys.stderr)
    from flows.live.panel import Panel

    return Panel(sys.stderr)


def enter_phase(phase: str) -> None:
    """Show, where a panel is shown, that the run begins ``phase``."""
    if (display := shown.get()) is not None:
        display.watch.enter(phase)
