"""Messages and lines of progress, for what cannot be redrawn."""

import contextlib
import time
from types import TracebackType
from typing import Self, TextIO

from flows.live.watch import Watch
from flows.terminal import print_text

LINE_SECONDS = 10.0
"""Time between two lines of progress."""


class Lines:
    """Messages, and a line of progress every LINE_SECONDS: for a pipe, a file, and a terminal that cannot redraw."""

    def __init__(self, stream: TextIO | None) -> None:
        """With None as ``stream`` nothing is shown."""
        self.watch = Watch()
        self._stream = stream
        self._shown_at = time.monotonic()

    def print_line(self, text: str) -> None:
        """Print ``text`` so that it stays."""
        # a run is worth more than its lines: who read them may be gone, as head or a closed terminal is
        if self._stream is not None:
            with contextlib.suppress(OSError):
                print_text(text, self._stream)
                self._stream.flush()

    def progress(self, line: str) -> None:
        """Tell how far the run is; it is shown where it is due."""
        if time.monotonic() - self._shown_at >= LINE_SECONDS:
            self._shown_at = time.monotonic()
            self.print_line(line)

    def close(self) -> None:
        """Show nothing more that would have to be taken away. Safe to call twice, from any thread."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
