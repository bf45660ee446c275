"""Paths that users write: taken literally, checked before anything depends on them, and told from URLs."""

import glob
import os
import re
import tempfile
from pathlib import Path

from tasks.errors import ConfigError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.:-]*://")


def is_url(text: str) -> bool:
    """Return whether ``text`` is a URL, and not a path, in which ``://`` may stand as well."""
    return _URL.match(text) is not None


def user_path(text: str | Path) -> Path:
    """Return the path that a user wrote, which may not exist. ``~`` at its start is the home directory.

    Raises ConfigError when it is empty, not UTF-8, or cannot be looked up, for example because a name is too long.
    """
    if not str(text):
        raise ConfigError("a path is empty. Name a file or a directory")
    # as shells do, and unlike Path.expanduser, leaves ~NAME as it is when there is no such user
    path = Path(os.path.expanduser(text))  # noqa: PTH111
    try:
        # records of a run hold paths as UTF-8
        str(path.absolute()).encode()
        path.stat()
    except UnicodeEncodeError:
        raise ConfigError(f"the path {str(path.absolute())!a} is not UTF-8. Rename it, or choose another") from None
    except NotADirectoryError:
        pass
    except FileNotFoundError:
        check_working_directory()
    except (OSError, ValueError) as error:
        raise ConfigError(f"the path {str(text)!r} cannot be used: {_reason(error)}. Choose another") from None
    return path


def check_working_directory() -> None:
    """Raise ConfigError when the working directory was deleted."""
    try:
        Path.cwd()
    except FileNotFoundError:
        raise ConfigError("the working directory was deleted. Change to another directory") from None


def check_directory(path: Path, what: str) -> None:
    """Check that the directory ``path`` can be made and takes files. ``what`` names it in the error.

    Nothing is left behind, as a later check may refuse the command, and nothing is made under ``path``'s own name, as
    another process may make it at the same moment. Raises ConfigError.
    """
    try:
        nearest = next(each for each in (path.absolute(), *path.absolute().parents) if os.path.lexists(each))
        with tempfile.TemporaryDirectory(dir=nearest, prefix=".harvest-check-"):
            pass
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{what} {path} cannot be written: {_reason(error)}. Give a directory that can be written, or correct its "
            "permissions"
        ) from None


def split_pattern(pattern: str) -> tuple[Path, str]:
    """Return the directory with which ``pattern`` begins, and the rest, in which ``*``, ``?`` and ``[`` are special.

    A file or directory that exists under exactly the name in the pattern is meant; the rest is then shorter, or empty.
    """
    path = user_path(pattern)
    directory, parts = Path(path.anchor), list(path.relative_to(path.anchor).parts)
    while parts and os.path.lexists(directory / parts[0]):
        directory /= parts.pop(0)
    return directory, str(Path(*parts)) if parts else ""


def names_below(directory: Path, rest: str) -> list[str]:
    """Return the names below ``directory`` that match ``rest``, as ``split_pattern`` returns both, in order.

    Hidden ones are left out: a trainer may be writing in them.
    """
    # pathlib does not leave them out
    return sorted(glob.glob(rest, root_dir=directory))  # noqa: PTH207


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
