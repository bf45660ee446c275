"""``harvest profiles``: the list, and one profile in full."""

import json
import os
from pathlib import Path

import pytest

from profiles.load import load_profile, profile_names
from tests.support.harvest_command import harvest_here


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert harvest_here("profiles", *arguments) == 0
    return capsys.readouterr().out


def test_the_list_has_a_line_for_every_profile(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line.split(maxsplit=1) for line in printed(capsys).splitlines()]
    assert lines[0][0] == "auto"
    assert lines[1:] == [[name, load_profile(name).description] for name in profile_names()]


def test_one_profile_is_shown_with_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    shown = json.loads(printed(capsys, "h100x8"))
    assert shown == load_profile("h100x8").model_dump(mode="json")
    assert shown["engine"]["tensor_parallel_size"] == 8


def test_all_profiles_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert [profile["name"] for profile in json.loads(printed(capsys, "--json"))] == profile_names()


def test_a_saved_profile_loads_again_and_is_not_overwritten_without_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.toml"
    for name in ("h100x8", "auto"):
        assert harvest_here("profiles", name, "--save", file) == 0
        saved = load_profile(str(file))
        assert saved == load_profile(name if name != "auto" else "cpu-demo")
        assert f"saved as {file}" in capsys.readouterr().err
        before = file.read_bytes()
        assert harvest_here("profiles", "h200x1", "--save", file) == 2
        assert "--force" in capsys.readouterr().err
        assert file.read_bytes() == before
        assert harvest_here("profiles", "h200x1", "--save", file, "--force") == 0
        assert load_profile(str(file)).name == "h200x1"
        file.unlink()
    assert list(tmp_path.iterdir()) == []


def test_what_is_printed_for_auto_is_a_profile_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "captured.toml"
    file.write_text(printed(capsys, "auto"))
    assert load_profile(str(file)) == load_profile("cpu-demo")


@pytest.mark.parametrize("force", [(), ("--force",)])
@pytest.mark.parametrize("kind", ["directory", "pipe", "dangling link"])
def test_only_a_file_is_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, force: tuple[str, ...]
) -> None:
    place = tmp_path / "there.toml"
    match kind:
        case "directory":
            place.mkdir()
        case "pipe":
            os.mkfifo(place)
        case _:
            place.symlink_to("nothing")
    before = place.lstat()
    assert harvest_here("profiles", "h200x1", "--save", place, *force) == 2
    assert f"--save is '{place}', which is there and is no file. Give another name" in capsys.readouterr().err
    assert (place.lstat().st_ino, list(tmp_path.iterdir())) == (before.st_ino, [place])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--save", "a.toml"), "Name it"),
        (("--model", "demo"), "Name it"),
        (("h100x8", "--model", "demo"), "--model is for auto"),
        (("auto", "--save", "profile"), "ends in .toml"),
        (("auto", "--save", "missing/a.toml"), "does not exist"),
        (("auto", "--save", "."), "ends in .toml"),
        (("nothing",), "unknown profile"),
    ],
)
def test_what_cannot_be_saved_is_refused(
    arguments: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert harvest_here("profiles", *arguments) == 2
    assert told in capsys.readouterr().err
