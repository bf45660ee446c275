"""A terminal: what a process wrote to it, as a reader sees it, after all that was written over and taken away."""

import contextlib
import fcntl
import os
import re
import struct
import subprocess
import termios
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Self, TextIO

_TOKEN = re.compile(r"\x1b\[([0-9;]*)([A-Za-z])|\r|\n|[^\x1b\r\n]+|\x1b")


class Screen:
    """Lines that the terminal folds at ``columns``, also those that it has already when it becomes narrower.

    It knows the codes that a panel may use, and refuses others: what is no code cannot have to be undone.
    """

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.lines = [""]
        self._line, self._at = 0, 0

    def feed(self, text: str) -> None:
        for token in _TOKEN.finditer(text):
            number, code = token[1], token[2]
            if token[0] == "\r":
                self._at -= self._at % self.columns
            elif token[0] == "\n":
                self._line, self._at = self._line + 1, 0
                self.lines += [""] * (self._line + 1 - len(self.lines))
            elif code is None:
                assert token[0] != "\x1b", f"an escape code that changes the terminal: {text!r}"
                line = self.lines[self._line].ljust(self._at)
                self.lines[self._line] = line[: self._at] + token[0] + line[self._at + len(token[0]) :]
                self._at += len(token[0])
            elif code == "A":
                self._up(int(number))
            elif code == "J":
                assert number == ""
                self.lines[self._line :] = [self.lines[self._line][: self._at]]
            else:
                assert code == "m", f"an escape code that changes the terminal: {token[0]!r}"

    def _up(self, rows: int) -> None:
        for _ in range(rows):
            if self._at >= self.columns:
                self._at -= self.columns
            elif self._line:
                self._line -= 1
                self._at = max(0, len(self.lines[self._line]) - 1) // self.columns * self.columns


class Terminal:
    """A pseudo terminal of so many rows and columns, with its screen. Use it as a context manager."""

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        self.screen = Screen(columns)
        self.raw = ""
        self.unfinished = ""
        """The line that has no end yet, such as a question; it is not on the screen."""
        self._rows = rows
        self._own, self.descriptor = os.openpty()
        self.resize(columns)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @property
    def lines(self) -> list[str]:
        """What stands on it now, without what was taken away."""
        return [line.rstrip() for line in self.screen.lines if line.strip()]

    def resize(self, columns: int) -> None:
        self.screen.columns = columns
        fcntl.ioctl(self.descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", self._rows, columns, 0, 0))

    def stream(self) -> TextIO:
        """Return the terminal as a file to write to, which its user closes."""
        return os.fdopen(os.dup(self.descriptor), "w", encoding="utf-8")

    def start(self, words: Sequence[str], variables: dict[str, str]) -> "subprocess.Popen[bytes]":
        """Start a process whose terminal this is, as a shell does."""
        descriptor = self.descriptor
        return subprocess.Popen(
            words,
            env={**variables, "TERM": "xterm-256color"},
            stdin=descriptor,
            stdout=descriptor,
            stderr=descriptor,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(descriptor, termios.TIOCSCTTY, 0),
        )

    def press(self, keys: str) -> None:
        os.write(self._own, keys.encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # the reader ends when nobody has the terminal open any more
        os.close(self.descriptor)
        self._thread.join()
        os.close(self._own)

    def _read(self) -> None:
        kept = b""
        with contextlib.suppress(OSError):
            while read := os.read(self._own, 65536):
                kept += read
                # a character or a code may be cut in the middle
                whole = kept.rfind(b"\n") + 1
                text, kept = kept[:whole].decode(), kept[whole:]
                self.unfinished = kept.decode(errors="replace")
                self.raw += text
                self.screen.feed(text)
        self.screen.feed(kept.decode())
