"""Opens files that somebody else wrote: regular ones only, because a pipe or a device could keep a reader waiting.

So that every text in them is read or refused, ``parse_json`` has one kind of error.
"""

import errno
import json
import os
import stat
from collections import Counter
from io import BufferedReader
from pathlib import Path
from typing import Any

TEXT_BYTES = 4 << 20
"""The most bytes that a settings file or a prompt template may have."""

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class UnfitFile(OSError):
    """The file is not regular, or too large. The text says only that: who opened the file names it."""

    def __str__(self) -> str:
        return str(self.strerror)


def open_regular(path: Path) -> BufferedReader:
    """Return the regular file at ``path``, open for reading. Raises OSError, also for anything else at ``path``."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket, or a device without a driver
            raise UnfitFile(errno.ENXIO, "it is a socket or a device, not a file", str(path)) from None
        raise
    # of what is open now, because another file could take the place of one that was only looked at
    kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
    if kind != stat.S_IFREG:
        os.close(descriptor)
        code = errno.EISDIR if kind == stat.S_IFDIR else errno.EINVAL
        raise UnfitFile(code, f"it is {_KINDS.get(kind, 'something else')}, not a file", str(path))
    return os.fdopen(descriptor, "rb")


def read_regular(path: Path, limit: int) -> bytes:
    """Return the bytes of the regular file at ``path``. Raises OSError, also when it has more than ``limit`` bytes."""
    with open_regular(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise UnfitFile(errno.EFBIG, f"it has more than {limit:,} bytes, the most that it may have", str(path))
    return data


def read_regular_text(path: Path) -> str:
    """Return the UTF-8 text of a small file of the user. Raises OSError and UnicodeDecodeError."""
    return read_regular(path, TEXT_BYTES).decode("utf-8-sig")  # editors write a byte order mark


class RepeatedName(ValueError):
    """An object has a name twice, which leaves open which value is meant."""


def unique_members(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object with these members, as an ``object_pairs_hook`` does. Raises RepeatedName."""
    value = dict(members)
    if len(value) < len(members):
        ((name, _),) = Counter(name for name, _ in members).most_common(1)
        raise RepeatedName(f"it has {name!r} twice")
    return value


def parse_json(text: str | bytes, *, unique_names: bool = False) -> Any:
    """Return the JSON value in ``text``. Raises ValueError, also when it is nested too deeply.

    With ``unique_names`` an object that has a name twice is an error too.
    """
    try:
        return json.loads(text, object_pairs_hook=unique_members if unique_names else None)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
