"""A run whose groups stop by a rule is killed inside a later wave, and the same command resumes it."""

import signal
from pathlib import Path

import pytest

from tasks.generation.journal import read_journal
from tests.faults.runs import (
    ROLLOUTS,
    Rows,
    RunProcess,
    assert_nothing_left,
    only_run_dir,
    read_rows,
    start_generation,
    write_profile,
)

pytestmark = pytest.mark.slow

SCORER = """
import zlib


def one_in_four(completion):
    return float(zlib.crc32(completion.encode()) % 4 == 0)
"""


def test_a_run_that_is_killed_inside_a_wave_gives_the_rows_of_an_undisturbed_one(
    tmp_path: Path, undisturbed_fake: Rows
) -> None:
    profile = write_profile(tmp_path, backend="tests.support.fake_engines:FakeEngine")
    scorer = tmp_path / "scorer.py"
    scorer.write_text(SCORER)
    changes = {"max_samples_per_arm": 6, "wave_size": 2, "sample_until": "mixed", "scorer": f"{scorer}:one_in_four"}

    def start(name: str, **variables: str) -> RunProcess:
        return start_generation(tmp_path / name / "runs", profile, changes=changes, folder=tmp_path, **variables)

    start("whole").finish()
    whole = read_rows(only_run_dir(tmp_path / "whole" / "runs"))
    assert ROLLOUTS < len(whole) < 6 * ROLLOUTS
    # the first sample of each group is that of a run without a rule
    assert {key: row for key, row in whole.items() if key[2] == 0} == undisturbed_fake

    run = start("killed", FAKE_HOLD_AFTER=str(ROLLOUTS + 20))
    run.wait_until(lambda: _begun_waves(run), "a later wave has rollouts in its journal")
    run.kill(signal.SIGKILL)
    resumed = start("killed").finish()
    assert resumed["rollouts_resumed"]
    assert read_rows(only_run_dir(tmp_path / "killed" / "runs")) == whole
    assert_nothing_left(run.seen)


def _begun_waves(run: RunProcess) -> bool:
    return any(read_journal(path).finished for path in run.runs_dir.glob("*/state/journal/shard-*-w*.jsonl"))
