"""A search of which nothing comes: a candidate that fails is a row, and a node that cannot run any is refused."""

from pathlib import Path

import pytest

from flows.parameters import run_config
from flows.tune import Tuner
from tasks.errors import PreflightFailed
from tasks.node.plan_here import plan_here
from tests.support.fake_profile import write_fake_profile


@pytest.mark.slow
def test_a_candidate_that_fails_is_a_row(tmp_path: Path) -> None:
    dataset = tmp_path / "questions.jsonl"
    dataset.write_text('{"question": "1 + 1?", "answer": "2"}\n')
    given = {"profile": str(write_fake_profile(tmp_path)), "dataset": str(dataset)}
    said: list[str] = []
    tuner = Tuner(plan_here(run_config(given), tmp_path / "runs"), given, minutes=1, log=said.append)
    dataset.unlink()
    assert tuner.run(on_interrupt=lambda: None)
    assert len(tuner.trials) >= 2
    for trial in tuner.trials:
        assert trial.tokens_per_s is None
        assert str(dataset) in trial.failure
    assert tuner.best() is None
    assert f"candidate 1: as given: {tuner.trials[0].failure}" in said


def test_a_node_that_cannot_run_the_profile_is_refused_once(tmp_path: Path) -> None:
    profile = write_fake_profile(tmp_path)
    profile.write_text(profile.read_text() + "ram_gib = 60000\n")
    given = {"profile": str(profile), "questions": 2}
    said: list[str] = []
    tuner = Tuner(plan_here(run_config(given), tmp_path / "runs"), given, minutes=1, log=said.append)
    with pytest.raises(PreflightFailed, match=r"preflight failed, 1 of \d+ checks:\s+- host memory"):
        tuner.run(on_interrupt=lambda: None)
    assert (tuner.trials, said, list(tmp_path.iterdir())) == ([], [], [profile])
