"""A profile written as text loads again, whatever is said above it."""

from pathlib import Path

import pytest

from profiles.load import load_profile
from profiles.profile_text import profile_text


@pytest.mark.parametrize(
    ("comment", "line"),
    [
        ("8 x H100", "# 8 x H100"),
        ("two\nlines\r\nand more", "# two lines and more"),
        ("\x1b[31mred\x1b[0m", "# [31mred [0m"),
        ("a\x00b\x7fc", "# a b c"),
        ("a path \udcff of bytes", "# a path of bytes"),
        ("grün, 模型", "# grün, 模型"),
    ],
)
def test_a_comment_of_any_text_stays_a_comment(tmp_path: Path, comment: str, line: str) -> None:
    file = tmp_path / "profile.toml"
    file.write_text(profile_text(load_profile("h100x8"), [comment]), encoding="utf-8")
    assert file.read_text(encoding="utf-8").splitlines()[0] == line
    assert load_profile(str(file)) == load_profile("h100x8")
