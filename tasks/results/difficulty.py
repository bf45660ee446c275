"""questions/difficulty.parquet: each question under each arm, with its pass rate, in DIFFICULTY_SCHEMA."""

from pathlib import Path

import polars as pl

from tasks.files import publish_parquet
from tasks.records import OWN_SCORES, RunPaths
from tasks.storage.published import recorded_path


def publish_difficulty(groups: pl.DataFrame, run_dir: Path, scores: str = OWN_SCORES) -> Path:
    """Publish ``groups`` of the run at ``run_dir`` by the scores in the folder ``scores``, and return the path.

    That of another set than the run's own is in the folder of the set.
    """
    path = RunPaths(root=run_dir, scores_folder=scores).difficulty
    publish_parquet(groups, path, recorded_path)
    return path
