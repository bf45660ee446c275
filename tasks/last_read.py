"""Remembers which file of a run was opened last, where a process that forked this one sees it too."""

import mmap
import os
from pathlib import Path

_PAGE = mmap.mmap(-1, mmap.PAGESIZE)
_LENGTH_BYTES = 2


def note_read(path: Path) -> None:
    """Remember ``path``, before it is read."""
    name = os.fsencode(path)[: mmap.PAGESIZE - _LENGTH_BYTES]
    _PAGE[_LENGTH_BYTES : _LENGTH_BYTES + len(name)] = name
    _PAGE[:_LENGTH_BYTES] = len(name).to_bytes(_LENGTH_BYTES, "little")


def last_read() -> str:
    """Return the path that was noted last, or an empty text."""
    length = int.from_bytes(_PAGE[:_LENGTH_BYTES], "little")
    return os.fsdecode(_PAGE[_LENGTH_BYTES : _LENGTH_BYTES + length])
