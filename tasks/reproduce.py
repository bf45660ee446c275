"""The command that makes a run again."""

import json
import shlex
from collections.abc import Mapping
from typing import Any

from tasks.run_config import DatasetSource, RunConfig, Sampling

_RENAMED = {"path": "dataset", "config": "dataset_config", "filters": "filter"}


def reproduce_command(config: Mapping[str, Any]) -> str:
    """``harvest run`` with every setting that is not the default; ``config`` is the one in config.json."""
    given = [*_given(config, RunConfig()), *_given(config["dataset"], DatasetSource(), _RENAMED)]
    sampling = {**config["sampling"]}
    if (lengths := sampling.pop("lengths", None)) is not None:
        given.append(("lengths", f"{lengths['distribution']}:{lengths['median']}:{lengths['sigma']!r}"))
    given += _given(sampling, Sampling())
    arguments = [part for name, value in given for part in _option(name, value)]
    return shlex.join(["harvest", "run", *arguments])


def _given(
    values: Mapping[str, Any], defaults: DatasetSource | RunConfig | Sampling, renamed: Mapping[str, str] | None = None
) -> list[tuple[str, Any]]:
    usual = defaults.model_dump(mode="json")
    return [
        ((renamed or {}).get(name, name), value)
        for name, value in values.items()
        if name not in ("dataset", "sampling") and name in usual and value != usual[name]
    ]


def _option(name: str, value: Any) -> list[str]:
    flag = "--" + name.replace("_", "-")
    if value is True:
        return [flag]
    items = value if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else value]
    # a value that begins with a dash would be read as another option
    return [part for item in items for part in ([f"{flag}={item}"] if str(item).startswith("-") else [flag, str(item)])]
