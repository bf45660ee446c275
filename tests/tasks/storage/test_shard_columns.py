"""A shard is read only when its columns are those of a run."""

from pathlib import Path

import polars as pl
import pytest

from tasks.errors import DamagedFile
from tasks.records import LATER_ROLLOUT_COLUMNS, RunPaths
from tasks.storage.published import read_shard, record_published, scan_shard
from tasks.storage.shard_columns import SHARD_SCHEMAS
from tests.support.synthetic import write_run


@pytest.fixture
def run(tmp_path: Path) -> RunPaths:
    return write_run(tmp_path / "run", shards=1, questions_per_shard=2, arms=2, error_rows=0.2, truncated=0.2, top_k=1)


def change(run: RunPaths, folder: str, *columns: pl.Expr, drop: str = "") -> Path:
    path = run.root / folder / "shard-00000.parquet"
    pl.read_parquet(path).with_columns(columns).drop(drop, strict=False).write_parquet(path)
    record_published(path)
    return path


@pytest.mark.parametrize("folder", SHARD_SCHEMAS)
def test_every_column_is_there_with_its_type(folder: str, run: RunPaths) -> None:
    for name, kind in SHARD_SCHEMAS[folder].items():
        path = run.root / folder / "shard-00000.parquet"
        before = path.read_bytes()
        for changed, wrong in (
            (lambda name=name: change(run, folder, drop=name), f"it has no column {name}"),
            (lambda name=name: change(run, folder, pl.lit(b"x").alias(name)), f"its column {name} holds Binary, not"),
        ):
            changed()
            with pytest.raises(DamagedFile, match=wrong):
                scan_shard(path)
            with pytest.raises(DamagedFile, match=wrong):
                read_shard(path)
        path.write_bytes(before)
        record_published(path)
        assert scan_shard(path).collect_schema()[name] == kind


@pytest.mark.parametrize(
    ("folder", "name"),
    [("rollouts", "arm_id"), ("rollouts", "num_completion_tokens"), ("scores", "scorer"), ("questions", "question")],
)
def test_a_column_that_has_no_nulls_in_a_run_has_none(folder: str, name: str, run: RunPaths) -> None:
    kind = SHARD_SCHEMAS[folder][name]
    path = change(run, folder, pl.when(pl.int_range(pl.len()) > 0).then(name).cast(kind).alias(name))
    with pytest.raises(DamagedFile, match=f"its column {name} has nulls"):
        scan_shard(path)


@pytest.mark.parametrize(("folder", "name"), [("rollouts", "completion"), ("scores", "reward"), ("rollouts", "more")])
def test_nulls_of_a_run_and_more_columns_are_accepted(folder: str, name: str, run: RunPaths) -> None:
    path = change(run, folder, pl.lit(None, SHARD_SCHEMAS[folder].get(name, pl.String)).alias(name))
    assert name in read_shard(path).columns


@pytest.mark.parametrize(("name", "kind"), LATER_ROLLOUT_COLUMNS.items())
def test_a_later_column_is_accepted_with_its_type_alone(name: str, kind: pl.DataType, run: RunPaths) -> None:
    path = change(run, "rollouts", pl.lit(None, kind).alias(name))
    assert read_shard(path).schema[name] == kind
    change(run, "rollouts", pl.lit(b"x").alias(name))
    with pytest.raises(DamagedFile, match=f"its column {name} holds Binary, not"):
        scan_shard(path)
