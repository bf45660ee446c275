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
