import os
from pathlib import Path

import pytest

from tasks.generation.engine_sockets import SOCKETS_VARIABLE, socket_directory

LONGEST_SOCKET = 107


@pytest.mark.parametrize(
    ("asked", "above"),
    [("/var/tmp", "/var/tmp"), ("/tmp/" + 45 * "x", "/tmp/" + 45 * "x"), ("/tmp/" + 46 * "x", "/tmp")],
)
def test_sockets_have_a_short_directory_of_their_own_that_goes_with_them(asked: str, above: str) -> None:
    own = Path(asked)
    made = not own.exists()
    own.mkdir(exist_ok=True)
    try:
        with socket_directory({SOCKETS_VARIABLE: asked}) as path:
            assert str(Path(path).parent) == above
            assert len(path) + 37 <= LONGEST_SOCKET
            (Path(path) / "socket").touch()
        assert not Path(path).exists()
    finally:
        if made:
            own.rmdir()


def test_each_has_another_by_default() -> None:
    with socket_directory({}) as path, socket_directory({SOCKETS_VARIABLE: ""}) as other:
        assert path != other
        assert Path(path).is_dir()


def test_that_of_a_killed_process_goes_with_the_next_one_and_that_of_a_living_one_stays(tmp_path: Path) -> None:
    where = {SOCKETS_VARIABLE: "/tmp"}
    with socket_directory(where) as held:
        abandoned, young, link = (Path(f"{held[:-8]}{os.getpid():07}{letter}") for letter in "aby")
        for left in (abandoned, young):
            left.mkdir()
            (left / "socket").touch()
        link.symlink_to(tmp_path)
        for path in (abandoned, Path(held)):
            os.utime(path, (0, 0))
        with socket_directory(where):
            assert [path.exists() for path in (abandoned, young, link, Path(held))] == [False, True, True, True]
        os.utime(young, (0, 0))
        link.unlink()
        with socket_directory(where):
            assert not young.exists()
