"""Files that are cut, emptied or replaced between two runs: the second run makes only those again."""

import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from tests.faults.runs import (
    Rows,
    assert_nothing_left,
    num_saved_rollouts,
    only_run_dir,
    read_rows,
    start_generation,
    write_profile,
)

pytestmark = pytest.mark.slow

FAKE = "tests.support.fake_engines:FakeEngine"


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def wrong_schema(path: Path) -> None:
    pl.DataFrame({"question": ["?"]}).write_parquet(path)


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The runs directory of a finished run, and its profile."""
    folder = tmp_path_factory.mktemp("finished")
    profile = write_profile(folder, backend=FAKE)
    start_generation(folder / "runs", profile).finish()
    return folder / "runs", profile


@pytest.fixture(scope="module")
def killed_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The runs directory of a run that was killed with 60 rollouts in its journals and shards, and its profile."""
    folder = tmp_path_factory.mktemp("killed")
    profile = write_profile(folder, backend=FAKE)
    run = start_generation(folder / "runs", profile, FAKE_HOLD_AFTER="60")
    run.wait_for_rollouts(60)
    run.kill()
    assert_nothing_left(run.seen)
    return folder / "runs", profile


def test_damaged_shards_are_generated_again_and_no_others(
    tmp_path: Path, finished_run: tuple[Path, Path], undisturbed_fake: Rows
) -> None:
    runs_dir, profile = tmp_path / "runs", finished_run[1]
    shutil.copytree(finished_run[0], runs_dir)
    root = only_run_dir(runs_dir)
    damages: list[Callable[[Path], None]] = [tear, empty, wrong_schema]
    shards = sorted((root / "rollouts").glob("*.parquet"))
    for damage, path in zip(damages, shards, strict=False):
        damage(path)
    tear(root / "questions" / "shard-00001.parquet")
    before = {path: path.stat().st_mtime_ns for path in shards}
    outcome = start_generation(runs_dir, profile).finish()
    assert read_rows(root) == undisturbed_fake
    assert sorted(shard["index"] for shard in outcome["shards"]) == [0, 1, 2]
    assert outcome["rollouts_finished"] == 3 * 32
    assert [path for path in shards if path.stat().st_mtime_ns != before[path]] == shards[:3]


@pytest.mark.parametrize("damage", [tear, empty, flip_a_bit])
def test_a_damaged_journal_loses_only_the_damaged_records(
    tmp_path: Path, killed_run: tuple[Path, Path], undisturbed_fake: Rows, damage: Callable[[Path], None]
) -> None:
    runs_dir, profile = tmp_path / "runs", killed_run[1]
    shutil.copytree(killed_run[0], runs_dir)
    root = only_run_dir(runs_dir)
    assert num_saved_rollouts(root) == 60
    # a shard that was published at the moment of the kill may still have its journal, which nobody needs any more
    published = {path.stem for path in (root / "rollouts").glob("shard-*.parquet")}
    journals = [path for path in sorted((root / "state" / "journal").glob("*.jsonl")) if path.stem not in published]
    damage(max(journals, key=lambda path: path.stat().st_size))
    kept = num_saved_rollouts(root)
    assert kept < 60
    outcome = start_generation(runs_dir, profile).finish()
    assert read_rows(root) == undisturbed_fake
    assert outcome["rollouts_finished"] == len(undisturbed_fake) - kept
