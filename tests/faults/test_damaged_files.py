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


def test_damaged_shards_are_generated_again_and_no_others(
    tmp_path: Path, undisturbed_run: Path, undisturbed_fake: Rows
) -> None:
    root, profile = tmp_path / "runs" / undisturbed_run.name, write_profile(tmp_path, backend=FAKE)
    shutil.copytree(undisturbed_run, root)
    damages: list[Callable[[Path], None]] = [tear, empty, wrong_schema]
    shards = sorted((root / "rollouts").glob("*.parquet"))
    for damage, path in zip(damages, shards, strict=False):
        damage(path)
    tear(root / "questions" / "shard-00001.parquet")
    before = {path: path.stat().st_mtime_ns for path in shards}
    outcome = start_generation(root.parent, profile).finish()
    assert read_rows(root) == undisturbed_fake
    assert sorted(shard["index"] for shard in outcome["shards"]) == [0, 1, 2]
    assert outcome["rollouts_finished"] == 3 * 32
    assert [path for path in shards if path.stat().st_mtime_ns != before[path]] == shards[:3]


def test_damaged_journals_lose_only_the_damaged_records(tmp_path: Path, undisturbed_fake: Rows) -> None:
    profile, runs_dir = write_profile(tmp_path, backend=FAKE), tmp_path / "runs"
    # shards are in flight together, and none of them is whole
    run = start_generation(runs_dir, profile, changes={"question_batch_size": 12}, FAKE_HOLD_AFTER="60")
    run.wait_for_rollouts(60)
    run.kill()
    assert_nothing_left(run.seen)
    root = only_run_dir(runs_dir)
    journals = sorted((root / "state" / "journal").glob("*.jsonl"))
    assert len(journals) == 4
    for damage, path in zip((tear, empty, flip_a_bit), journals, strict=False):
        before = num_saved_rollouts(root)
        damage(path)
        assert num_saved_rollouts(root) < before
    kept = num_saved_rollouts(root)
    assert kept > 0
    outcome = start_generation(runs_dir, profile, changes={"question_batch_size": 12}).finish()
    assert read_rows(root) == undisturbed_fake
    assert outcome["rollouts_finished"] == len(undisturbed_fake) - kept
