"""Fill the placeholders in a run's parameters: ``{date}``, and patterns of model and adapter directories.

The parameters of a schedule keep their placeholders, so that each of its runs gets its own day and the newest model.
"""

import datetime
import glob
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tasks.errors import ConfigError
from tasks.plan.adapter_files import is_adapter_pattern, matching_adapters
from tasks.plan.model_files import check_model_files, weight_files
from tasks.user_paths import split_pattern

_DATE = re.compile(r"\{date(?::([^{}]+))?\}")
WITH_DATE = ("model", "adapters", "dataset", "arms", "name", "upload", "baseline", "seed")
"""Parameters in which ``{date}`` is replaced."""


def has_placeholder(parameters: Mapping[str, Any], name: str) -> bool:
    """Return whether the value of the parameter ``name`` depends on the time at which it is filled in."""
    if name not in WITH_DATE:
        return False
    is_pattern = _PATTERNS.get(name)
    values = _texts(parameters.get(name))
    return any(_DATE.search(value) or (is_pattern is not None and is_pattern(value)) for value in values)


def _texts(value: Any) -> list[str]:
    """Return the texts in the value of a parameter, which may be a list of them."""
    return [text for text in (value if isinstance(value, list | tuple) else [value]) if isinstance(text, str)]


def _is_model_pattern(model: str) -> bool:
    directory, rest = split_pattern(model)
    return glob.has_magic(rest) or (not rest and directory.is_symlink())


_PATTERNS: Mapping[str, Callable[[str], bool]] = {"model": _is_model_pattern, "adapters": is_adapter_pattern}


def fill_placeholders(parameters: Mapping[str, Any], day: datetime.date) -> dict[str, Any]:
    """Return ``parameters`` with each placeholder replaced by its value on ``day``. A second call changes nothing.

    ``{date}`` becomes an ISO 8601 date, ``{date:FORMAT}`` a date in strftime's FORMAT, and in a seed the number
    YYYYMMDD. A model pattern with ``*``, ``?`` or ``[`` becomes the complete model directory with the newest weights,
    an adapter pattern all complete adapters that match. Raises ConfigError when none matches, or a seed is no number.
    """
    resolved = dict(parameters)
    for name in WITH_DATE:
        if has_placeholder(resolved, name):
            usual, value = "%Y%m%d" if name == "seed" else "%Y-%m-%d", resolved[name]
            resolved[name] = (
                _dated(value, day, usual) if isinstance(value, str) else [_dated(text, day, usual) for text in value]
            )
    if isinstance(resolved.get("seed"), str):
        resolved["seed"] = _number(resolved["seed"])
    if has_placeholder(resolved, "model"):
        resolved["model"] = _newest_model(resolved["model"])
    if has_placeholder(resolved, "adapters"):
        resolved["adapters"] = [found for text in resolved["adapters"] for found in matching_adapters(text)]
    return resolved


def _dated(text: str, day: datetime.date, usual: str) -> str:
    return _DATE.sub(lambda match: format(day, match[1] or usual), text)


def _number(seed: str) -> int:
    try:
        return int(seed)
    except ValueError:
        raise ConfigError(f"seed is {seed!r}; give a number, or {{date}} for the day as a number") from None


def _newest_model(pattern: str) -> str:
    directory, rest = split_pattern(pattern)
    # unlike pathlib, glob leaves out hidden directories, in which a trainer may be writing
    names = glob.glob(rest, root_dir=directory) if rest else [""]  # noqa: PTH207
    candidates = [directory / name for name in names]
    complete = [path for path in candidates if _is_complete(path)]
    if not complete:
        raise ConfigError(
            f"model {pattern!r} matches {len(candidates)} paths, none of them a directory with a complete model. "
            "Check the pattern, or name the directory"
        )
    # names do not sort (step-900, step-1000), and a copied directory has the time of the copy, so weights decide
    return str(max(complete, key=lambda path: (_written(path), str(path))).resolve())


def _is_complete(path: Path) -> bool:
    if not path.is_dir():
        return False
    try:
        check_model_files(path)
    except ConfigError:
        return False
    return True


def _written(path: Path) -> float:
    return max((file.stat().st_mtime for file in weight_files(path)), default=0.0)
