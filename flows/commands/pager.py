"""Long output: through the user's pager on a terminal, plainly elsewhere."""

import os

from rich.console import Console, RenderableType


def print_paged(content: RenderableType) -> None:
    """Print ``content``; on a terminal through $PAGER, or less where that is not set."""
    console = Console()
    if not console.is_terminal:
        console.print(content)
        return
    # colours kept, no pager for what fits on one screen
    os.environ.setdefault("LESS", "-RFX")
    with console.pager(styles=True):
        console.print(content)
