"""What the commands print with rich: on the terminal, or through a pager."""

import os
import sys

from rich.console import Console, RenderableType

PIPED_WIDTH = 200


def console() -> Console:
    """Standard output, as wide as the terminal; in a file or a pipe, wide enough that no line is cut or folded."""
    return Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)


def print_paged(content: RenderableType) -> None:
    """Print ``content``; on a terminal through $PAGER, or through less where that is not set."""
    console = Console()
    if not console.is_terminal:
        console.print(content)
        return
    os.environ.setdefault("LESS", "-RFX")  # keep colours, show no pager for what fits on one screen
    with console.pager(styles=True):
        console.print(content)
