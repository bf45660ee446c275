"""Makes another set of scores the run's own, and keeps those that it had as a set.

Nothing is lost by a kill at any moment: what was the run's own is copied away first, the set is removed last, and the
same call again goes on.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.files import atomic_path, publish_json, read_record
from tasks.locks import run_lock
from tasks.records import SET_PREFIX, RunPaths
from tasks.results.scored_rollouts import check_scored
from tasks.results.summary_subprocess import summarize_in_subprocess
from tasks.storage.published import (
    forget_published,
    published_record,
    read_wave,
    record_path,
    record_published,
    recorded_path,
)
from tasks.storage.run_files import known_waves, write_manifest
from tasks.storage.score_sets import (
    SET_RECORD,
    ScoreSet,
    find_scores,
    own_scorer,
    publish_set,
    right_at,
    set_folder,
)


@dataclass(frozen=True, kw_only=True)
class AdoptedScores:
    """What ``adopt_scores`` did."""

    scorer: str
    """Name and version."""
    kept: str | None
    """The set that has what were the run's own scores; None when they were these already."""
    comparison_removed: bool
    """The comparison with a baseline was of the other scores."""
    mean_reward: float | None


def adopt_scores(run_dir: Path, name: str) -> AdoptedScores:
    """Make the set ``name`` the run's own. Raises ConfigError for another name, or a run that is not finished."""
    folder = find_scores(run_dir, name)
    check_scored(run_dir, folder)
    paths = RunPaths(root=run_dir)
    with run_lock(paths.state / "lock", work="harvest score"):
        return _adopt(paths, RunPaths(root=run_dir, scores_folder=folder))


def _adopt(paths: RunPaths, other: RunPaths) -> AdoptedScores:
    check_scored(other.root, other.scores_folder)
    run_dir, indices = paths.root, [*known_waves(other.root, other.scores_folder)]
    kept: str | None = None
    removed = False
    if not other.are_own_scores:
        made = read_record(run_dir / other.scores_folder / SET_RECORD, ScoreSet)
        if (own := _scorer_besides(paths, other, indices)) is not None:
            kept = set_folder(*own)
            aside = RunPaths(root=run_dir, scores_folder=kept)
            config = _config(paths)
            publish_set(run_dir, kept, ScoreSet(scorer=str(config.get("scorer", own[0])), right_at=right_at(run_dir)))
            _copy(paths, aside, [index for index in indices if _scorer(paths, index) == own])
        _copy(other, paths, indices)
        _record_scorer(paths, made)
        if removed := paths.equivalence.is_file():
            forget_published(paths.equivalence)
            paths.equivalence.unlink()
    report = summarize_in_subprocess(run_dir)
    write_manifest(run_dir)
    if not other.are_own_scores:
        shutil.rmtree(run_dir / other.scores_folder)
        shutil.rmtree(paths.state / other.scores_folder, ignore_errors=True)
    scorer = own_scorer(run_dir)
    return AdoptedScores(
        scorer=" ".join(scorer or ()),
        kept=None if kept is None else kept.removeprefix(SET_PREFIX),
        comparison_removed=removed,
        mean_reward=report.mean_reward,
    )


def _scorer_besides(paths: RunPaths, other: RunPaths, indices: list[int]) -> tuple[str, str] | None:
    """Return the scorer of the run's own scores; None when all of them are those of ``other`` already."""
    wanted = _scorer(other, indices[0])
    found = {_scorer(paths, index) for index in indices if published_record(paths.scores(index))}
    return next(iter(sorted(found - {wanted})), None)


def _scorer(paths: RunPaths, index: int) -> tuple[str, str]:
    row = read_wave(paths.scores(index), columns=["scorer", "scorer_version"]).row(0)
    return str(row[0]), str(row[1])


def _copy(source: RunPaths, target: RunPaths, indices: list[int]) -> None:
    for index in indices:
        record = published_record(source.scores(index))
        if record is None or _has_same_scorer(target, source, index):
            continue
        forget_published(target.scores(index))
        with atomic_path(target.scores(index)) as temporary:
            shutil.copyfile(source.scores(index), temporary)
        record_published(target.scores(index), made_from=record.made_from)


def _has_same_scorer(target: RunPaths, source: RunPaths, index: int) -> bool:
    path = target.scores(index)
    if path.is_file() and record_path(path).is_file():
        return _scorer(target, index) == _scorer(source, index)
    return False


def _config(paths: RunPaths) -> dict[str, Any]:
    config: dict[str, Any] = (read_record(paths.config, dict[str, Any]) or {}).get("config", {})
    return config


def _record_scorer(paths: RunPaths, made: ScoreSet | None) -> None:
    """Have config.json name the scorer, as far as it is known how it was given."""
    value = read_record(paths.config, dict[str, Any])
    if value is None or made is None:
        return
    value["config"] = {**value.get("config", {}), "scorer": made.scorer}
    if made.right_at is not None:
        value["config"]["right_at"] = made.right_at
    publish_json(value, paths.config, recorded_path)
