"""``harvest profiles``: the list, and one profile in full."""

import json

import pytest

from flows.commands.cli import build_parser
from profiles.load import load_profile, profile_names


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    options = build_parser().parse_args(["profiles", *arguments])
    assert options.execute(options) == 0
    return capsys.readouterr().out


def test_the_list_has_a_line_for_every_profile(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line.split(maxsplit=1) for line in printed(capsys).splitlines()]
    assert lines == [[name, load_profile(name).description] for name in profile_names()]


def test_one_profile_is_shown_with_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    shown = json.loads(printed(capsys, "h100x8"))
    assert shown == load_profile("h100x8").model_dump(mode="json")
    assert shown["engine"]["tensor_parallel_size"] == 8


def test_all_profiles_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert [profile["name"] for profile in json.loads(printed(capsys, "--json"))] == profile_names()
