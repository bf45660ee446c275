"""Whose Prefect a run uses."""

from pathlib import Path

import pytest

from flows.prefect_environment import prepare_prefect

SERVER = 'active = "team"\n[profiles.team]\nPREFECT_API_URL = "http://prefect.example.com/api"\n'
NO_SERVER = 'active = "ephemeral"\n[profiles.ephemeral]\nPREFECT_SERVER_ALLOW_EPHEMERAL_MODE = "true"\n'


@pytest.mark.parametrize(
    ("variables", "files", "home"),
    [
        ({}, {}, "runs/.prefect"),
        ({"PREFECT_API_URL": "http://127.0.0.1:4200/api"}, {}, None),
        ({}, {"home/.prefect/profiles.toml": SERVER}, None),
        ({}, {"home/.prefect/profiles.toml": "not toml ["}, None),
        ({}, {"home/.prefect/profiles.toml": NO_SERVER}, "home/.prefect"),
        ({"PREFECT_PROFILE": "ephemeral"}, {"home/.prefect/profiles.toml": SERVER + NO_SERVER[21:]}, "home/.prefect"),
        ({"PREFECT_PROFILE": "team"}, {}, None),
        ({"PREFECT_HOME": "other"}, {}, "other"),
        ({"PREFECT_HOME": "other"}, {"other/profiles.toml": SERVER}, None),
        ({}, {"prefect.toml": ""}, None),
        ({}, {"pyproject.toml": "[tool.prefect]"}, None),
        ({}, {"pyproject.toml": "[tool.ruff]"}, "runs/.prefect"),
    ],
)
def test_home(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    files: dict[str, str],
    home: str | None,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    environment = {"HOME": str(tmp_path / "home"), **variables}
    assert prepare_prefect(tmp_path / "runs", environment) == (home is not None)
    if home is not None:
        assert environment["PREFECT_HOME"] == str(tmp_path / home)
        assert Path(environment["PREFECT_HOME"]).is_dir()
    else:
        assert not (tmp_path / "runs").exists()
