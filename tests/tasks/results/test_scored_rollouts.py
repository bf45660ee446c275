"""Rollouts and their scores are read without holding the texts."""

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from tasks.records import RunPaths
from tasks.results.metrics import is_repetitive
from tasks.results.scored_rollouts import load_metric_rows
from tests.support.harvest_command import environment
from tests.support.synthetic import publish_shard, write_run

TEXT_BYTES = 200_000
ROWS_PER_SHARD = 32
SHARDS = 48

GROWTH = """
import resource, sys
from pathlib import Path
from tasks.records import RunPaths
from tasks.results.page_samples import pick_samples
from tasks.results.scored_rollouts import load_metric_rows

def peak(root):
    paths = RunPaths(root=Path(root))
    pick_samples(paths.root, load_metric_rows(paths, repetition=True))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

small, large = map(peak, sys.argv[1:])
print(1024 * (large - small))
"""


def write_texts(root: Path, shards: int, text: str) -> RunPaths:
    run = write_run(root, shards=shards, questions_per_shard=ROWS_PER_SHARD // 8, tokens=2, error_rows=0.1)
    for index in range(shards):
        rows = pl.read_parquet(run.rollouts(index))
        # each its own: equal texts are stored, and held, once
        texts = pl.when(pl.col("error").is_null()).then(pl.format("{} {}", "rollout_id", pl.lit(text)))
        publish_shard(rows.with_columns(completion=texts), run.rollouts(index))
    return run


def test_repetition_is_told_for_every_rollout_and_texts_are_not_kept(tmp_path: Path) -> None:
    run = write_texts(tmp_path / "run", 2, "and so on, " * 40)
    one = pl.read_parquet(run.rollouts(1))
    rows = load_metric_rows(run, repetition=True)
    assert rows.height == 2 * ROWS_PER_SHARD
    assert "completion" not in rows.columns
    expected = one.select("rollout_id", is_repetitive(pl.col("completion")).alias("is_repetitive"))
    assert rows.select("rollout_id", "is_repetitive").tail(one.height).equals(expected)
    assert "is_repetitive" not in load_metric_rows(run).columns


@pytest.mark.slow
def test_the_memory_of_a_summary_does_not_grow_with_the_texts(tmp_path: Path) -> None:
    text = "".join(chr(97 + number * number % 26) for number in range(TEXT_BYTES))
    few = write_texts(tmp_path / "few", 2, text)
    many = write_texts(tmp_path / "many", SHARDS, text)
    measured = subprocess.run(
        [sys.executable, "-c", GROWTH, str(few.root), str(many.root)],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    # all texts of the larger run are 300 MB; a shard of them is 6
    assert int(measured.stdout) < SHARDS * ROWS_PER_SHARD * TEXT_BYTES / 8
