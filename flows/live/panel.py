"""A panel at the bottom of a terminal, redrawn by a thread, with everything that is printed above it.

It changes no setting of the terminal: the cursor stays visible, at the start of the line below the panel. So there is
nothing to restore, even after SIGKILL, and what another process prints does not run into a line of the panel.
"""

import contextlib
import logging
import os
import sys
import textwrap
import threading
from types import TracebackType
from typing import Any, TextIO, cast

from rich.console import ConsoleDimensions

from flows.console import PlainConsole
from flows.live.lines import Lines
from flows.live.view import panel_lines
from flows.terminal import print_text

logger = logging.getLogger(__name__)

REFRESH_SECONDS = 0.5
_JOIN_SECONDS = 2.0


class Panel(Lines):
    """The state of the run, redrawn twice a second until ``close``, which takes it away.

    Until then ``sys.stdout``, if it is a terminal too, and ``sys.stderr`` print above the panel.
    """

    def __init__(self, stream: TextIO, *, refresh_s: float = REFRESH_SECONDS) -> None:
        super().__init__(stream)
        self._refresh_s = refresh_s
        self._terminal = stream
        self._console = PlainConsole(file=stream, soft_wrap=False)
        self._plain = not self._console.encoding.startswith("utf")
        self._lock = threading.RLock()
        self._drawn: list[int] = []
        """Cells of each line of the panel on the screen."""
        self._progress = ""
        self._replaced = (sys.stdout, sys.stderr)
        self.is_open = True
        sys.stderr = cast(TextIO, _Above(sys.stderr, self))
        if sys.stdout.isatty():
            sys.stdout = cast(TextIO, _Above(sys.stdout, self))
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._redraw, name="panel", daemon=True)
        self._thread.start()

    def print_line(self, text: str) -> None:
        # as with lines: the terminal may be gone
        with self._lock, contextlib.suppress(OSError):
            self._terminal.write(self._erased())
            print_text(_wrapped(text, self._size().width), self._terminal)
            if self.is_open:
                self._draw()
            self._terminal.flush()

    def progress(self, line: str) -> None:
        self._progress = line

    def close(self) -> None:
        self._closed.set()
        if self._thread is not threading.current_thread():
            self._thread.join(_JOIN_SECONDS)
        with self._lock:
            if self.is_open:
                self.is_open = False
                for stream in (sys.stdout, sys.stderr):
                    if isinstance(stream, _Above):
                        stream.flush_rest()
                sys.stdout, sys.stderr = self._replaced
                with contextlib.suppress(OSError):
                    self._terminal.write(self._erased())
                    self._terminal.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        was_open = self.is_open
        self.close()
        if error is not None and was_open and self._progress:
            # how far it came
            self.print_line(self._progress)

    def _redraw(self) -> None:
        while not self._closed.is_set():
            try:
                with self._lock:
                    # in one write, so that the terminal shows no half of it
                    self._terminal.write(self._erased() + self._frame())
                    self._terminal.flush()
            except Exception:  # a run is worth more than its panel
                logger.debug("the panel could not be drawn", exc_info=True)
            self._closed.wait(self._refresh_s)

    def _draw(self) -> None:
        try:
            self._terminal.write(self._frame())
        except Exception:
            logger.debug("the panel could not be drawn", exc_info=True)

    def _frame(self) -> str:
        """Return the panel as text; the cursor ends below it."""
        size = self._size()
        # the last column stays free: some terminals go to the next line there, others do not
        lines = panel_lines(
            self.watch.state(), width=max(1, size.width - 1), height=max(1, size.height - 2), plain=self._plain
        )
        with self._console.capture() as captured:
            for line in lines:
                self._console.print(line, no_wrap=True, overflow="ignore", crop=True)
        self._drawn = [line.cell_len for line in lines]
        return captured.get()

    def _size(self) -> ConsoleDimensions:
        """Return the terminal's size now; rich's own is that of standard input and output."""
        with contextlib.suppress(OSError):
            width, height = os.get_terminal_size(self._terminal.fileno())
            # a terminal that nobody told its size says 0
            self._console.size = ConsoleDimensions(width or 80, height or 24)
        return self._console.size

    def _erased(self) -> str:
        """Return what takes the panel off the screen. A terminal that became narrower has folded its lines."""
        size = self._size()
        rows = sum(max(1, -(-cells // size.width)) for cells in self._drawn)
        self._drawn = []
        up = min(rows, size.height - 1)
        return f"\r\x1b[{up}A\x1b[J" if up else "\r\x1b[J"


def _wrapped(text: str, width: int) -> str:
    """Return ``text`` in lines that end between words, as far as a word is not longer than a line."""
    lines = (
        textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False, expand_tabs=False) or [line]
        for line in text.split("\n")
    )
    return "\n".join(part for parts in lines for part in parts)


class _Above:
    """A stream whose lines are printed above the panel. Its unfinished line, such as a bar of tqdm, is the note."""

    def __init__(self, stream: TextIO, panel: Panel) -> None:
        self._stream = stream
        self._panel = panel
        self._rest = ""

    def write(self, text: str) -> int:
        panel = self._panel
        if not panel.is_open:
            return self._stream.write(text)
        with panel._lock:
            *lines, self._rest = (self._rest + text).split("\n")
            # a carriage return begins the line anew
            for line in lines:
                panel.print_line(line.rstrip("\r").rpartition("\r")[2])
            self._rest = self._rest[self._rest.rfind("\r", 0, -1) + 1 :]
        panel.watch.note(self._rest.strip("\r"))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        self.write("".join(lines))

    def flush_rest(self) -> None:
        """Print the unfinished line where it was meant to be."""
        rest, self._rest = self._rest.strip("\r"), ""
        if rest.strip():
            self._panel.print_line(rest)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
