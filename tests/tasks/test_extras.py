"""A message names what adds an extra to the environment that shows it."""

from pathlib import Path

from tasks.extras import UV_RECEIPT, add_extra


def test_an_environment_of_uv_tool_has_no_pip(tmp_path: Path) -> None:
    assert add_extra("ray", tmp_path) == "pip install 'rollout-harvest[ray]'"
    (tmp_path / UV_RECEIPT).touch()
    assert add_extra("ray", tmp_path) == "the same uv tool install, with ray in its brackets"
