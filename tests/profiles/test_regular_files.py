"""Only regular files are read, and none that is larger than it may be."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from profiles.load import SettingsError, load_arms, load_profile
from profiles.regular_files import TEXT_BYTES, open_regular, read_regular, read_regular_text
from tasks.errors import ConfigError
from tasks.plan.run_config import config_from_parameters


def put_socket(path: Path) -> None:
    # the path of a socket may have 107 bytes only
    folder = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"/proc/self/fd/{folder}/{path.name}")
    os.close(folder)


ODD: dict[str, Callable[[Path], object]] = {
    "it is a pipe, not a file": os.mkfifo,
    "it is a device, not a file": lambda path: path.symlink_to("/dev/zero"),
    "it is a socket": put_socket,
    "it is a directory, not a file": lambda path: path.mkdir(),
    "No such file": lambda path: path.symlink_to("nowhere"),
}


@pytest.mark.parametrize("reason", ODD)
def test_only_a_regular_file_is_opened(tmp_path: Path, reason: str) -> None:
    path = tmp_path / "given"
    ODD[reason](path)
    with pytest.raises(OSError, match=reason):
        open_regular(path)


def test_a_link_to_a_regular_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("größer")
    (tmp_path / "link").symlink_to("target")
    assert read_regular_text(tmp_path / "link") == "größer"


def test_a_file_may_have_its_limit_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "given"
    path.write_bytes(b"12345")
    assert read_regular(path, 5) == b"12345"
    with pytest.raises(OSError, match="more than 4 bytes"):
        read_regular(path, 4)


READERS: dict[str, Callable[[str], object]] = {
    "profile.toml": load_profile,
    "arms.toml": load_arms,
    "prompt.txt": lambda path: config_from_parameters({"prompt_format": "plain", "prompt_template": path}),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("reason", ODD)
def test_an_odd_file_of_the_user_is_refused_by_name(tmp_path: Path, name: str, reason: str) -> None:
    path = tmp_path / name
    ODD[reason](path)
    with pytest.raises((SettingsError, ConfigError), match=name):
        READERS[name](str(path))


@pytest.mark.parametrize("name", READERS)
def test_a_huge_file_of_the_user_is_refused_with_the_limit(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with path.open("wb") as file:
        file.truncate(8 << 30)  # takes no room on the disk
    with pytest.raises((SettingsError, ConfigError), match=f"{name}.* more than {TEXT_BYTES:,} bytes"):
        READERS[name](str(path))


@pytest.mark.parametrize("text", ["a = " + "[" * 100_000, "a = 2026-13-45", "a = " + "9" * 5_000, "\x00"])
def test_text_that_is_no_toml_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "profile.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=r"profile\.toml"):
        load_profile(str(path))
