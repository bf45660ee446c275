"""The class of an engine is code of the user: whatever its module raises names the backend."""

from pathlib import Path

import pytest

from tasks.errors import ConfigError
from tasks.generation.engine import load_engine_class


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import sys\nsys.exit()\n", "SystemExit"),
        ("import os\nos._exit(0)\n", "SystemExit: os._exit"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("def __getattr__(name):\n    raise KeyboardInterrupt\n", "KeyboardInterrupt"),
        ("", "AttributeError: module"),
    ],
)
def test_a_backend_that_cannot_be_loaded_is_named(
    source: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    # a module that was imported stays in this process, so each case has a name of its own
    module = f"backend_{abs(hash(request.node.name))}"
    (tmp_path / f"{module}.py").write_text(source)
    with pytest.raises(ConfigError, match=f"engine backend '{module}:Engine' cannot be loaded .{told}"):
        load_engine_class(f"{module}:Engine")
