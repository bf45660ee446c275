"""Print with rich: to the terminal, or through a pager."""

import os
import sys

from rich.console import Console, RenderableType

PIPED_WIDTH = 200
"""Columns of a file or a pipe: enough that no line is cut or folded."""


def console() -> Console:
    """Return a console on standard output, as wide as the terminal. A file or a pipe gets PIPED_WIDTH columns."""
    return Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)


def print_paged(content: RenderableType) -> None:
    """Print ``content``; on a terminal through $PAGER, or through less when PAGER is not set."""
    console = Console()
    if not console.is_terminal:
        console.print(content)
        return
    os.environ.setdefault("LESS", "-RFX")  # keep colours; print a text that fits on one screen without the pager
    with console.pager(styles=True):
        console.print(content)
