"""The sets of scores of a run: its own, in ``scores/``, and others, each in a folder ``scores@NAME`` beside it.

Another set is made by another scorer, or another version of it. It never takes the place of the run's own, except by
``harvest score --use``. Its folder has a file for each shard, ``set.json``, and its own report.
"""

import difflib
import re
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import polars as pl

from tasks.errors import ConfigError
from tasks.files import publish_json, read_record
from tasks.records import OWN_SCORES, SET_PREFIX, RunPaths, shard_indices
from tasks.storage.published import published_record
from tasks.storage.stored_config import read_stored_config

SET_RECORD = "set.json"


@dataclass(frozen=True, kw_only=True)
class ScoreSet:
    """The contents of ``set.json``."""

    scorer: str
    """What was given as ``--scorer``."""
    right_at: float | None = None
    """None: that of the run."""


def set_folder(scorer: str, version: str) -> str:
    """Return the folder of a set of scores. Characters that do not belong in a file name become ``-``."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{scorer}-{version}").strip("-.")
    # a folder's name has at most 255 bytes; the end tells versions apart
    return f"{SET_PREFIX}{name[-200:]}"


def other_sets(run_dir: Path) -> list[str]:
    """Return the names of the other sets of scores, which is what ``--scores`` takes."""
    folders = (path for path in run_dir.glob(f"{SET_PREFIX}*") if path.is_dir())
    return sorted(path.name.removeprefix(SET_PREFIX) for path in folders)


def find_scores(run_dir: Path, name: str | None) -> str:
    """Return the folder of the set that ``name`` or its unique beginning means; without a name the run's own.

    The run's own set has the name of its scorer too. Raises ConfigError, which lists the sets.
    """
    if name is None or name == OWN_SCORES:
        return OWN_SCORES
    own = own_scorer(run_dir)
    folders = {other: f"{SET_PREFIX}{other}" for other in other_sets(run_dir)}
    if own is not None:
        # a set that is half made the run's own is there twice
        folders.setdefault(set_folder(*own).removeprefix(SET_PREFIX), OWN_SCORES)
    asked = name.removeprefix(SET_PREFIX)
    fits = [asked] if asked in folders else [known for known in folders if known.startswith(asked)]
    if len(fits) != 1:
        found = f"fits {' and '.join(sorted(fits))}" if fits else f"is no set of scores of {run_dir}"
        near = difflib.get_close_matches(asked, folders, n=1)
        meant = f" Did you mean {near[0]}?" if near and not fits else ""
        raise ConfigError(
            f"scores {name!r} {found}; it has {', '.join(sorted(folders)) or 'none'}.{meant} harvest score makes others"
        )
    folder = folders[fits[0]]
    if not any(published_record(path) for path in map(partial(_shard, run_dir, folder), _indices(run_dir, folder))):
        raise ConfigError(f"{run_dir / folder} has no scores on record. Score again with harvest score")
    return folder


def find_set(run_dir: Path, folder: str) -> str:
    """Return ``folder`` if the run has that set of scores, else its own."""
    return folder if (run_dir / folder).is_dir() else OWN_SCORES


def set_like(run_dir: Path, other_run: Path, folder: str) -> str:
    """Return the folder in which a run has scores of the scorer of another run's set; its own if there is none."""
    scorer = scorer_of(other_run, folder)
    return OWN_SCORES if scorer is None or scorer == own_scorer(run_dir) else find_set(run_dir, set_folder(*scorer))


def own_scorer(run_dir: Path) -> tuple[str, str] | None:
    """Return name and version of the scorer of the run's own scores, by the first shard; None without scores."""
    return scorer_of(run_dir, OWN_SCORES)


def scorer_of(run_dir: Path, folder: str) -> tuple[str, str] | None:
    """Return name and version of the scorer of a set, by the first shard that can be read; None without one."""
    for index in _indices(run_dir, folder):
        try:
            rows = pl.read_parquet(
                _shard(run_dir, folder, index), columns=["scorer", "scorer_version"], n_rows=1, glob=False
            )
        except (pl.exceptions.PolarsError, OSError):
            continue
        if rows.height and None not in rows.row(0):
            return rows.row(0)
    return None


def right_at(run_dir: Path, scores: str = OWN_SCORES) -> float:
    """Return the reward from which a rollout of the run counts as right, in the set in the folder ``scores``."""
    found = None if scores == OWN_SCORES else read_record(run_dir / scores / SET_RECORD, ScoreSet)
    if found is not None and found.right_at is not None:
        return found.right_at
    return read_stored_config(run_dir).config.right_at


def publish_set(run_dir: Path, folder: str, made: ScoreSet) -> None:
    """Write ``set.json`` of another set of scores."""
    publish_json(asdict(made), run_dir / folder / SET_RECORD)


def _indices(run_dir: Path, folder: str) -> list[int]:
    return shard_indices(run_dir / folder)


def _shard(run_dir: Path, folder: str, index: int) -> Path:
    return RunPaths(root=run_dir, scores_folder=folder).scores(index)
