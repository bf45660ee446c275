"""How far a run is that has not ended, from its files: what is published, and what its journals have beside."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from tasks.errors import DamagedFile
from tasks.records import RunPaths, shard_index, wave_of
from tasks.results.group_pass_rates import wave_plan_of
from tasks.results.page_timeline import Timeline, read_timeline
from tasks.results.rewards_so_far import ArmSoFar, arms_so_far, scored_rows
from tasks.results.run_list import ListedRun, listed_run
from tasks.storage.published import scan_shard
from tasks.storage.run_files import known_waves

_FINISHED = b'"kind":"rollout"'
"""Stands in a journal's line once, and only in that of a finished rollout, as quotes within its texts are escaped."""
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class RunProgress:
    """A run in the middle."""

    listed: ListedRun
    shards: int
    """Published ones."""
    scored: int
    """Those of them that are scored."""
    journaled: int
    """Finished rollouts of shards that are not published yet."""
    arms: tuple[ArmSoFar, ...]
    """The highest mean reward first."""
    timeline: Timeline | None

    @property
    def rollouts(self) -> int:
        """Finished rollouts, never more than planned: a shard may be published while its journal is counted."""
        found = self.listed.rollouts + self.journaled
        return found if self.listed.rollouts_planned is None else min(found, self.listed.rollouts_planned)


def read_progress(run_dir: Path) -> RunProgress:
    """Return how far the run is. Raises DamagedFile, OSError, or what Polars raises when a file goes away meanwhile."""
    paths = RunPaths(root=run_dir)
    rollouts, scores = known_waves(run_dir, "rollouts"), known_waves(run_dir, "scores")
    try:
        timeline = read_timeline(paths.telemetry)
    except DamagedFile:
        timeline = None  # the run itself replaces it
    return RunProgress(
        listed=listed_run(run_dir),
        shards=sum(not wave_of(index) for index in rollouts),
        scored=sum(not wave_of(index) for index in scores),
        journaled=sum(
            _count(path) for path in paths.journal(0).parent.glob("shard-*.jsonl") if _index(path) not in rollouts
        ),
        arms=_arms(paths, sorted(index for index in rollouts.keys() & scores.keys() if not wave_of(index))),
        timeline=timeline,
    )


def _index(journal: Path) -> int:
    try:
        return shard_index(journal.with_suffix(".parquet"))
    except ValueError:
        return -1


def _count(journal: Path) -> int:
    found, last = 0, b""
    try:
        with journal.open("rb") as file:
            while chunk := file.read(_CHUNK):
                found += (last + chunk).count(_FINISHED)
                last = chunk[1 - len(_FINISHED) :]
    except OSError:
        return found  # its shard was published just now
    return found


def _arms(paths: RunPaths, shards: list[int]) -> tuple[ArmSoFar, ...]:
    if not shards:
        return ()
    plan = wave_plan_of(paths.root)
    return arms_so_far(
        pl.concat(
            scored_rows(scan_shard(paths.rollouts(index)), scan_shard(paths.scores(index)), plan) for index in shards
        )
    )
