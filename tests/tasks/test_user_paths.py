"""Paths of users are taken literally, told from URLs, and refused in one line when they cannot be used."""

from pathlib import Path

import pytest

from tasks.errors import ConfigError
from tasks.user_paths import check_directory, is_url, split_pattern, user_path
from tests.support.odd_paths import ODD_NAMES


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://bucket/prefix", True),
        ("file:///x", True),
        ("simplecache::s3://bucket/x", True),
        ("runs/c://d", False),
        ("a::b", False),
        ("a:b", False),
        ("/x", False),
        ("~/x", False),
    ],
)
def test_a_url_is_told_from_a_path(text: str, expected: bool) -> None:
    assert is_url(text) == expected


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_path_is_taken_literally(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert user_path(name) == Path(name)
    (tmp_path / name).mkdir()
    assert user_path(tmp_path / name) == tmp_path / name
    assert split_pattern(f"{name}/*.jsonl") == (Path(name), "*.jsonl")
    assert split_pattern(f"{tmp_path}/{name}") == (tmp_path / name, "")


def test_a_tilde_is_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/runs") == tmp_path / "runs"
    assert split_pattern("~/no*/x-[0-9]") == (tmp_path, "no*/x-[0-9]")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "a path is empty"),
        ("x" * 300, "File name too long"),
        ("x/" * 2100, "File name too long"),
        ("a\0b", "embedded null byte"),
        ("e\udcff", r"e\\udcff' is not UTF-8"),
        ("loop/x", "Too many levels of symbolic links"),
    ],
    ids=["empty", "a long name", "a long path", "NUL", "not UTF-8", "a loop of links"],
)
def test_what_cannot_be_a_path_is_refused(
    text: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ConfigError, match=told) as caught:
        user_path(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["/dev/null", "/dev/null/runs", "/proc/runs", "file/runs", "file", "loop", "dangling"])
def test_a_directory_that_takes_no_file_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("/proc/nowhere")
    with pytest.raises(ConfigError, match=r"the place .* cannot be written: ") as caught:
        check_directory(tmp_path / text, "the place")
    assert "\n" not in str(caught.value)


def test_a_check_of_a_directory_leaves_nothing_in_it(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    (tmp_path / "real").mkdir()
    check_directory(tmp_path / "link" / "new" / "inner", "the place")
    check_directory(tmp_path / "link", "the place")
    assert list((tmp_path / "real").iterdir()) == []
