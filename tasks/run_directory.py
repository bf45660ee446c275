"""Opening a run's directory: its configuration on disk, and nothing left over from a killed process."""

from pathlib import Path

from tasks.errors import ConfigError
from tasks.process_tree import end_leftovers
from tasks.run_plan import RunPlan
from tasks.store import publish_json, read_json, remove_stale_temporaries


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
