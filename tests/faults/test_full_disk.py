"""A disk that refuses writes: one clear error, finished shards stay, and the same command resumes afterwards."""

import subprocess
import sys
from pathlib import Path

import pytest

from tasks.results.run_state import run_state
from tests.faults.runs import (
    QUESTIONS,
    SHARD_SIZE,
    Rows,
    assert_nothing_left,
    only_run_dir,
    options,
    read_rows,
    start_generation,
    write_profile,
)
from tests.support.harvest_command import environment

pytestmark = pytest.mark.slow


LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
os.execv(sys.executable, [sys.executable, "-m", "flows.commands.cli", *sys.argv[2:]])
"""
LIMIT = 9_000
"""Bytes per file: enough for a run's configuration, too few for a shard's journal."""


def assert_resumes(runs_dir: Path, profile: Path, expected: Rows, folder: Path) -> None:
    """The same command completes the run, and makes no finished shard again."""
    root = only_run_dir(runs_dir)
    finished = {path.stem for path in (root / "state" / "rollouts").glob("*.json")}
    before = {name: (root / "rollouts" / f"{name}.parquet").read_bytes() for name in finished}
    assert read_rows(root).items() <= expected.items()
    outcome = start_generation(runs_dir, profile, folder=folder).finish()
    assert len(outcome["shards"]) + len(finished) == QUESTIONS // SHARD_SIZE
    assert read_rows(root) == expected
    assert before == {name: (root / "rollouts" / f"{name}.parquet").read_bytes() for name in finished}


def test_a_full_disk_ends_the_run_with_a_clear_error_and_it_resumes(
    tmp_path: Path, undisturbed_fake: Rows, small_disk: Path
) -> None:
    profile, runs_dir = write_profile(tmp_path, backend="tests.support.fake_engines:FakeEngine"), small_disk / "runs"
    ballast = small_disk / "ballast"
    # room for some shards, not for all
    ballast.write_bytes(b"x" * (1024 - 60) * 1024)
    run = start_generation(runs_dir, profile, folder=tmp_path)
    outcome = run.finish()
    assert run.process.returncode == 1
    assert outcome["error"] == "StorageError"
    assert outcome["message"].startswith("could not write")
    assert "No space left on device" in outcome["message"]
    assert "run the same command" in outcome["message"]
    assert_nothing_left(run.seen)
    ballast.unlink()
    assert_resumes(runs_dir, profile, undisturbed_fake, tmp_path)


def test_a_file_that_may_not_grow_ends_harvest_run_with_one_line(
    tmp_path: Path, undisturbed_fake: Rows, prefect_api: str
) -> None:
    profile, runs_dir = write_profile(tmp_path, backend="tests.support.fake_engines:FakeEngine"), tmp_path / "runs"
    run = subprocess.run(
        [sys.executable, "-c", LIMITED, str(LIMIT), "run", "--runs-dir", runs_dir, *options(profile)],
        # Python would keep modules that it compiles now, cut off at the limit, and no later process could import them
        env=environment(PREFECT_API_URL=prefect_api, PYTHONDONTWRITEBYTECODE="1"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1, run.stderr
    assert "Traceback" not in run.stderr
    last = run.stderr.splitlines()[-1]
    assert last.startswith("harvest: error: could not write")
    assert "File too large" in last
    state = run_state(only_run_dir(runs_dir))
    assert (state.name, "could not write" in str(state.reason)) == ("failed", True), state
    assert_resumes(runs_dir, profile, undisturbed_fake, tmp_path)
