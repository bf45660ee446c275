"""Placeholders in parameters, ``{date}`` and patterns of model directories, filled once per run.

The parameters of a schedule keep them.
"""

import datetime
import glob
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.errors import ConfigError
from tasks.plan.model_files import check_model_files, weight_files

_DATE = re.compile(r"\{date(?::([^{}]+))?\}")
WITH_DATE = ("model", "dataset", "arms", "name", "upload", "baseline", "seed")
"""Parameters in which ``{date}`` stands for the day."""


def has_placeholder(parameters: Mapping[str, Any], name: str) -> bool:
    """True when the value of parameter ``name`` depends on when it is resolved."""
    value = parameters.get(name)
    if not isinstance(value, str) or name not in WITH_DATE:
        return False
    return bool(_DATE.search(value)) or (name == "model" and (glob.has_magic(value) or Path(value).is_symlink()))


def fill_placeholders(parameters: Mapping[str, Any], day: datetime.date) -> dict[str, Any]:
    """``parameters`` with each placeholder replaced by what it means on ``day``; the same call again changes nothing.

    ``{date}`` is ISO 8601, ``{date:FORMAT}`` is strftime's, and as a seed it is the number YYYYMMDD. A model with
    ``*``, ``?`` or ``[`` is the directory whose weights are newest among the complete models that match. Raises
    ConfigError when none matches.
    """
    resolved = dict(parameters)
    for name in WITH_DATE:
        if has_placeholder(resolved, name):
            resolved[name] = _dated(resolved[name], day, "%Y%m%d" if name == "seed" else "%Y-%m-%d")
    if isinstance(resolved.get("seed"), str):
        resolved["seed"] = _number(resolved["seed"])
    if has_placeholder(resolved, "model"):
        resolved["model"] = _newest_model(resolved["model"])
    return resolved


def _dated(text: str, day: datetime.date, usual: str) -> str:
    return _DATE.sub(lambda match: format(day, match[1] or usual), text)


def _number(seed: str) -> int:
    try:
        return int(seed)
    except ValueError:
        raise ConfigError(f"seed is {seed!r}; give a number, or {{date}} for the day as a number") from None


def _newest_model(pattern: str) -> str:
    # pathlib cannot expand an absolute pattern
    candidates = [Path(path) for path in glob.glob(str(Path(pattern).expanduser()))]  # noqa: PTH207
    complete = [path for path in candidates if _is_complete(path)]
    if not complete:
        raise ConfigError(
            f"model {pattern!r} matches {len(candidates)} paths, none of them a directory with a complete model. "
            "Check the pattern, or name the directory"
        )
    # step-900 and step-1000 do not sort by name, and a copied directory has the time of its copying: weights decide
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
