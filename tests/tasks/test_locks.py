"""A lock file is made, or is one already: nothing else is opened, followed or changed."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.errors import ConfigError
from tasks.locks import open_lock_file, run_lock, what_finishes, write_holder
from tasks.node.gpu_lock import lock_gpus

HOLDER = b'{"pid": 7, "host": "node-1", "since": "2026-10-01T09:00:00+00:00"}'
DATA = "a user's notes"


def link_to_data(path: Path) -> None:
    (path.parent / "notes").write_text(DATA)
    path.symlink_to(path.parent / "notes")


def link_to_nothing(path: Path) -> None:
    path.symlink_to(path.parent / "not made")


OTHER: list[Callable[[Path], object]] = [
    lambda path: path.write_text(DATA),
    lambda path: path.write_text("[" * 100_000),
    lambda path: path.write_bytes(HOLDER + b" " * 5_000),
    lambda path: path.mkdir(),
    os.mkfifo,
    link_to_data,
    link_to_nothing,
]


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() if path.is_file() else "" for path in folder.iterdir()}


@pytest.mark.parametrize("text", [b"", HOLDER, HOLDER[:3], HOLDER[:-5], bytes(70)])
def test_an_earlier_holder_and_a_torn_one_are_replaced(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "run" / "state" / "lock"
    path.parent.mkdir(parents=True)
    path.write_bytes(text)
    with run_lock(path):
        assert f'"pid": {os.getpid()}' in path.read_text()


@pytest.mark.parametrize("put", OTHER)
def test_what_is_no_lock_file_is_refused_and_stays(tmp_path: Path, put: Callable[[Path], object]) -> None:
    put(tmp_path / "gpu-0.lock")
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match=r"gpu-0\.lock"), run_lock(tmp_path / "gpu-0.lock"):
        pass
    locked = lock_gpus(["0"], run_id="run", on_wait=pytest.fail, directory=tmp_path)
    with pytest.raises(ConfigError, match=r"gpu-0\.lock"), locked:
        pass
    assert contents(tmp_path) == before


def test_a_place_where_no_lock_can_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").write_text(DATA)
    opened = open_lock_file(tmp_path / "state" / "lock")
    with pytest.raises(ConfigError, match=r"state/lock cannot be opened: .*\. Remove what is there"), opened:
        pass


def test_the_holder_is_a_lock_file_for_the_next(tmp_path: Path) -> None:
    for _ in range(2):
        with open_lock_file(tmp_path / "lock") as descriptor:
            write_holder(descriptor, run_id="run")


def test_a_run_that_is_in_use_is_finished_by_waiting(tmp_path: Path) -> None:
    resumes = "Run the command that made it again; it resumes"
    assert what_finishes(tmp_path) == resumes
    with run_lock(tmp_path / "state" / "lock"):
        assert what_finishes(tmp_path).startswith(f"It is in use by process {os.getpid()} on ")
    assert what_finishes(tmp_path) == resumes
