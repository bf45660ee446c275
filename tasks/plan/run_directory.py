"""Opening a run's directory: its configuration on disk, and nothing left over from a killed process."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.errors import ConfigError
from tasks.files import publish_json, read_json, remove_stale_temporaries
from tasks.plan.run_config import DatasetSource, RunConfig, Sampling
from tasks.plan.run_plan import RunPlan
from tasks.process_tree import end_leftovers


def open_run(plan: RunPlan) -> list[int]:
    """Make or reopen the run's directory; return the pids of leftover replica processes that were ended.

    Raises ConfigError when the directory belongs to another configuration.
    """
    known = read_json(plan.paths.config)
    if isinstance(known, dict) and known.get("fingerprint") != plan.fingerprint:
        raise ConfigError(
            f"{plan.paths.root} holds another run (fingerprint {known.get('fingerprint')}); choose another --name"
        )
    plan.paths.root.mkdir(parents=True, exist_ok=True)
    remove_stale_temporaries(plan.paths.root)
    ended = end_leftovers(plan.paths.root.parent)
    if known != plan.to_json():
        publish_json(plan.to_json(), plan.paths.config)
    return ended


def find_run(name: str, runs_dir: Path) -> Path:
    """The run directory called ``name``: a path, or a run id below ``runs_dir``. Raises ConfigError."""
    for candidate in (Path(name), runs_dir / name):
        if (candidate / "config.json").is_file():
            return candidate.resolve()
    known = sorted(path.parent.name for path in runs_dir.glob("*/config.json"))
    listed = f"; {runs_dir} holds {', '.join(known[-5:])}" if known else f"; {runs_dir} holds no runs"
    raise ConfigError(f"run {name!r} is neither a run directory nor a run id{listed}. Give one of these")


# MERGED from @reproduce: The command that makes a run again.
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
