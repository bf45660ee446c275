"""Open, find and remove run directories, and write the command that makes a run again."""

import logging
import shlex
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from profiles.nearest import did_you_mean
from tasks.errors import ConfigError, DamagedRecord, StorageError
from tasks.files import publish_json, read_record, remove_stale_temporaries, set_aside
from tasks.plan.parameters import as_options
from tasks.plan.run_config import CONFIG_PARAMETERS, parameters_of_config
from tasks.plan.run_plan import RunPlan
from tasks.process_tree import end_leftovers
from tasks.records import RunPaths
from tasks.storage.published import recorded_path
from tasks.user_paths import user_path

logger = logging.getLogger(__name__)

LATEST = "latest"
"""In place of a run's id."""
_MOST_LISTED = 5
_OF_SCORES = ("scorer", "right_at")


def open_run(plan: RunPlan) -> list[int]:
    """Make or reopen the run's directory; kill replicas left over from earlier runs and return their pids.

    A damaged config.json is set aside. Raises ConfigError when the directory belongs to another configuration.
    """
    try:
        known = read_record(plan.paths.config, dict[str, Any])
    except DamagedRecord as error:
        logger.warning("%s is damaged: %s. It is now %s", error.path, error.reason, set_aside(error.path).name)
        known = None
    if known is not None and known.get("fingerprint") != plan.fingerprint:
        raise ConfigError(
            f"{plan.paths.root} holds another run (fingerprint {known.get('fingerprint')}); choose another --name, or "
            "move it away"
        )
    plan.paths.root.mkdir(parents=True, exist_ok=True)
    remove_stale_temporaries(plan.paths.root)
    ended = end_leftovers(plan.paths.root.parent)
    value = plan.to_json()
    if known is not None and not plan.paths.are_own_scores:
        # what is scored now is another set, and the run's own stays as it is
        value["config"] |= {name: known["config"][name] for name in _OF_SCORES if name in known["config"]}
    if known != value:
        publish_json(value, plan.paths.config, recorded_path)
    return ended


def find_run(name: str, runs_dir: Path) -> Path:
    """Return the run directory ``name``: a path, or of ``runs_dir`` the run of that id, the only one whose id begins
    so, or with LATEST the one that was worked on last.

    Raises ConfigError if there is none, or more than one.
    """
    return named_run(name, runs_dir).resolve()


def named_run(name: str, runs_dir: Path) -> Path:
    """Return what ``find_run`` does, as it is named: it may be a link to the run. Raises ConfigError."""
    for candidate in (user_path(name), user_path(runs_dir / name)):
        if user_path(candidate / "config.json").exists():
            return candidate
    known = {path.parent.name: path.parent for path in sorted(runs_dir.glob("*/config.json"))}
    if name == LATEST and known:
        return max(known.values(), key=_worked_on)
    found = [each for each in known if each.startswith(name)]
    if len(found) == 1:
        return known[found[0]]
    if found:
        more = f" and {len(found) - _MOST_LISTED} more" if len(found) > _MOST_LISTED else ""
        raise ConfigError(
            f"{len(found)} runs begin with {name!r}: {', '.join(found[:_MOST_LISTED])}{more}. Give more of the id"
        )
    listed = (
        f"{', '.join([*known][-_MOST_LISTED:])}.{did_you_mean(name, known)} Give one of these" if known else "no runs"
    )
    raise ConfigError(f"run {name!r} is neither a run directory nor a run id; {runs_dir} holds {listed}")


def _worked_on(run_dir: Path) -> float:
    """Return when a process last began or finished work on the run, in seconds since the epoch."""
    paths = RunPaths(root=run_dir)
    return max(path.stat().st_mtime for path in (paths.config, paths.state / "lock", paths.manifest) if path.exists())


def remove_run(run_dir: Path) -> None:
    """Remove the directory of a run, whose lock the caller holds. Raises StorageError."""
    try:
        # first in one step: what is half removed is no run, and the same configuration may be collected again
        with tempfile.TemporaryDirectory(dir=run_dir.parent, prefix=".removed-") as aside:
            shutil.rmtree(run_dir.rename(Path(aside) / run_dir.name))
    except OSError as error:
        raise StorageError(f"{run_dir} cannot be removed: {error}. Correct its permissions") from None


def reproduce_command(config: Mapping[str, Any]) -> str:
    """Return the ``harvest run`` command that makes a run again, from the ``config`` in its config.json."""
    return shlex.join(["harvest", "run", *as_options(parameters_of_config(config), CONFIG_PARAMETERS)])
