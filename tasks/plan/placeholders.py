"""Fill the placeholders in a run's parameters: ``{date}``, and patterns of model directories.

The parameters of a schedule keep their placeholders, so that each of its runs gets its own day and the
checkpoints that are there then.
"""

import datetime
import re
from collections.abc import Callable, Mapping
from typing import Any

from tasks.errors import ConfigError
from tasks.plan.checkpoints import find_checkpoints, is_model_pattern

_DATE = re.compile(r"\{date(?::([^{}]+))?\}")
WITH_DATE = ("model", "dataset", "arms", "name", "upload", "baseline", "seed")
"""Parameters in which ``{date}`` is replaced."""


CHECKPOINTS = "checkpoints"
"""The parameter that says what a pattern means, and gets the directories that it means."""


def has_placeholder(parameters: Mapping[str, Any], name: str) -> bool:
    """Return whether the value of the parameter ``name`` depends on the time at which it is filled in."""
    value = parameters.get(name)
    if name == CHECKPOINTS:
        return isinstance(value, str) and has_placeholder(parameters, "model")
    if not isinstance(value, str) or name not in WITH_DATE:
        return False
    return bool(_DATE.search(value)) or (name == "model" and is_model_pattern(value))


def fill_placeholders(
    parameters: Mapping[str, Any], day: datetime.date, tell: Callable[[str], None] = lambda told: None
) -> dict[str, Any]:
    """Return ``parameters`` with each placeholder replaced by its value on ``day``. A second call changes nothing.

    ``{date}`` becomes an ISO 8601 date, ``{date:FORMAT}`` a date in strftime's FORMAT, and in a seed the number
    YYYYMMDD. With ``checkpoints`` among the parameters, that becomes the complete model directories that match a model
    pattern with ``*``, ``?`` or ``[``, in the order of their steps, or the one with the newest weights; the model
    becomes the first of them. Without it, the model becomes the newest. ``tell`` gets a sentence about each directory
    that is left out. Raises ConfigError when no complete model matches, or a seed is not a number.
    """
    resolved = dict(parameters)
    for name in WITH_DATE:
        if has_placeholder(resolved, name):
            resolved[name] = _dated(resolved[name], day, "%Y%m%d" if name == "seed" else "%Y-%m-%d")
    if isinstance(resolved.get("seed"), str):
        resolved["seed"] = _number(resolved["seed"])
    if has_placeholder(resolved, "model"):
        found = find_checkpoints(resolved["model"])
        for told in found.incomplete:
            tell(f"left for another time, as the model is not complete: {told}")
        chosen = found.complete if resolved.get(CHECKPOINTS) == "all" else (found.newest,)
        resolved["model"] = str(chosen[0])
        if CHECKPOINTS in resolved:
            resolved[CHECKPOINTS] = [str(path) for path in chosen]
    return resolved


def _dated(text: str, day: datetime.date, usual: str) -> str:
    return _DATE.sub(lambda match: format(day, match[1] or usual), text)


def _number(seed: str) -> int:
    try:
        return int(seed)
    except ValueError:
        raise ConfigError(f"seed is {seed!r}; give a number, or {{date}} for the day as a number") from None
