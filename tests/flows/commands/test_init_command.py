"""``harvest init``: what it writes, and what it leaves as it is. tests/e2e/test_first_use.py runs what it writes."""

from pathlib import Path

import pytest

from profiles.load import load_arms, load_profile
from tests.support.harvest_command import Tell

FILES = ["arms.toml", "profile.toml", "questions.jsonl", "scorer.py", "test_scorer.py"]


def test_it_writes_files_that_load(tmp_path: Path, tell: Tell) -> None:
    told = tell("init", tmp_path / "new" / "one")
    assert (told.code, told.stderr) == (0, "")
    directory = tmp_path / "new" / "one"
    assert sorted(path.name for path in directory.iterdir()) == FILES
    profile = load_profile(str(directory / "profile.toml"))
    assert (profile.name, profile.model) == ("mine", "demo")
    assert [arm.id for arm in load_arms(str(directory / "arms.toml")).arms] == ["step_by_step", "direct"]


def test_without_a_directory_it_writes_here_and_a_second_time_it_says_so(
    tmp_path: Path, tell: Tell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert tell("init").code == 0
    (tmp_path / "arms.toml").write_text("mine")
    again = tell("init")
    assert (again.code, again.stdout, again.stderr.count("\n")) == (2, "", 1)
    assert "has profile.toml, arms.toml, questions.jsonl, scorer.py, test_scorer.py already" in again.stderr
    assert (tmp_path / "arms.toml").read_text() == "mine"


@pytest.mark.parametrize("name", FILES)
def test_one_file_that_is_there_stops_it_before_anything_is_written(tmp_path: Path, tell: Tell, name: str) -> None:
    (tmp_path / name).symlink_to("nowhere")
    refused = tell("init", tmp_path)
    assert (refused.code, refused.stdout) == (2, "")
    assert f"{tmp_path} has {name} already, and nothing is overwritten" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_place_that_takes_no_files_is_refused(tmp_path: Path, tell: Tell) -> None:
    (tmp_path / "file").touch()
    refused = tell("init", tmp_path / "file")
    assert refused.code == 2
    assert "the directory" in refused.stderr
    assert "cannot be written: Not a directory" in refused.stderr


def test_the_commands_suit_any_name(tmp_path: Path, tell: Tell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "--profile ./--odd/profile.toml --arms ./--odd/arms.toml" in tell("init", "--", "--odd").stdout
    assert "--scorer 'two words/scorer.py:exact'" in tell("init", "two words").stdout
