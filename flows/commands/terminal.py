"""Standard output, as rich prints to it."""

import sys

from rich.console import Console

PIPED_WIDTH = 200


def console() -> Console:
    """As wide as the terminal; where lines go to a file or a pipe, wide enough that nothing is cut or folded."""
    return Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)
