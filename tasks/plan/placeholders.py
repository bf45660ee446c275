"""Fill the placeholders in a run's parameters: ``{date}``, patterns of models and adapters, short names of runs.

The parameters of a schedule keep their placeholders, so that each of its runs gets its own day and the
checkpoints that are there then.
"""

import datetime
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tasks.errors import ConfigError
from tasks.plan.adapter_files import is_adapter_pattern, matching_adapters
from tasks.plan.checkpoints import find_checkpoints, is_model_pattern
from tasks.user_paths import is_url, user_path

_DATE = re.compile(r"\{date(?::([^{}]+))?\}")
WITH_DATE = ("model", "adapters", "dataset", "arms", "name", "upload", "baseline", "seed")
"""Parameters in which ``{date}`` is replaced."""
CHECKPOINTS = "checkpoints"
"""The parameter that says what a pattern of models means: "all" or "newest". Its directories replace the word."""


def has_placeholder(parameters: Mapping[str, Any], name: str) -> bool:
    """Return whether the value of the parameter ``name`` depends on the time at which it is filled in."""
    if name == CHECKPOINTS:
        return isinstance(parameters.get(name), str) and has_placeholder(parameters, "model")
    if name not in WITH_DATE:
        return False
    if name == "baseline" and _is_short(parameters):
        return True
    is_pattern = _PATTERNS.get(name)
    values = _texts(parameters.get(name))
    return any(_DATE.search(value) or (is_pattern is not None and is_pattern(value)) for value in values)


def _texts(value: Any) -> list[str]:
    """Return the texts in the value of a parameter, which may be a list of them."""
    return [text for text in (value if isinstance(value, list | tuple) else [value]) if isinstance(text, str)]


_PATTERNS: Mapping[str, Callable[[str], bool]] = {"model": is_model_pattern, "adapters": is_adapter_pattern}


def fill_placeholders(
    parameters: Mapping[str, Any], day: datetime.date, tell: Callable[[str], None] = lambda told: None
) -> dict[str, Any]:
    """Return ``parameters`` with each placeholder replaced by its value on ``day``. A second call changes nothing.

    ``{date}`` becomes an ISO 8601 date, ``{date:FORMAT}`` a date in strftime's FORMAT, and in a seed the number
    YYYYMMDD. A model pattern, with ``*``, ``?`` or ``[``, means complete model directories: all in the order of their
    steps if ``checkpoints`` is "all", else the one with the newest weights. The model becomes the first of them, and
    ``checkpoints``, if it is among the parameters, the list. ``tell`` gets a sentence about each directory that is left
    out. An adapter pattern becomes all complete adapters that match. A baseline that is the beginning of an id, or the
    latest run, becomes its directory, as the run that follows may begin so too. Raises ConfigError when none matches,
    or a seed is no number.
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
        found = find_checkpoints(resolved["model"])
        for told in found.incomplete:
            tell(f"left for another time, as the model is not complete: {told}")
        chosen = found.complete if resolved.get(CHECKPOINTS) == "all" else (found.newest,)
        resolved["model"] = str(chosen[0])
        if CHECKPOINTS in resolved:
            resolved[CHECKPOINTS] = [str(path) for path in chosen]
    if has_placeholder(resolved, "adapters"):
        resolved["adapters"] = [found for text in resolved["adapters"] for found in matching_adapters(text, tell)]
    if _is_short(resolved):
        from tasks.plan.run_directory import find_run

        resolved["baseline"] = str(find_run(resolved["baseline"], _runs_dir(resolved)))
    return resolved


def _is_short(parameters: Mapping[str, Any]) -> bool:
    """Return whether the baseline is neither "auto" nor the directory, id or URL of a run."""
    from tasks.plan.policies import AUTO_BASELINE

    name = parameters.get("baseline")
    if not isinstance(name, str) or name == AUTO_BASELINE or is_url(name) or _DATE.search(name):
        return False
    return not any((user_path(place) / "config.json").exists() for place in (name, _runs_dir(parameters) / name))


def _runs_dir(parameters: Mapping[str, Any]) -> Path:
    return user_path(parameters.get("runs_dir") or "runs")


def _dated(text: str, day: datetime.date, usual: str) -> str:
    return _DATE.sub(lambda match: format(day, match[1] or usual), text)


def _number(seed: str) -> int:
    try:
        return int(seed)
    except ValueError:
        raise ConfigError(f"seed is {seed!r}; give a number, or {{date}} for the day as a number") from None
