"""What a user may have meant: known names, or files that exist, like the one that was given."""

import difflib
from collections.abc import Iterable
from pathlib import Path


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Return the question " Did you mean A or B?" about up to three ``known`` names like ``given``, or nothing."""
    return _asked(difflib.get_close_matches(given, sorted({*known}), n=3))


def nearest_files(path: Path) -> str:
    """Return the same question about the files beside ``path``, which does not exist."""
    try:
        beside = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return "" if path.parent.is_dir() else f" There is no directory {path.parent}."
    near = difflib.get_close_matches(path.name, beside, n=3)
    return _asked([str(path.with_name(name)) for name in near])


def _asked(near: list[str]) -> str:
    return f" Did you mean {' or '.join(near)}?" if near else ""
