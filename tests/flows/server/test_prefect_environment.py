"""Which Prefect home and server a run uses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.server.prefect_environment import configure_prefect, set_prefect_defaults
from tasks.time_limits import FACTOR_VARIABLE
from tests.support.harvest_command import ROOT

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
def test_a_run_uses_the_users_prefect_or_a_home_of_its_own(
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
    assert configure_prefect(tmp_path / "runs", environment) == (home is not None)
    if home is not None:
        assert environment["PREFECT_HOME"] == str(tmp_path / home)
        # the user's own home keeps its mode
        assert Path(environment["PREFECT_HOME"]).stat().st_mode & 0o77 == 0 or home != "runs/.prefect"
    else:
        assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["what?", "/".join(["long" * 30] * 4)], ids=["a question mark", "too long"])
def test_a_runs_directory_in_which_sqlite_opens_no_database_has_its_prefect_home_elsewhere(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    homes = []
    for runs_dir in (tmp_path / name, tmp_path / name, tmp_path / name / "other"):
        environment = {"HOME": str(tmp_path / "home")}
        assert configure_prefect(runs_dir, environment)
        homes.append(environment["PREFECT_HOME"])
    assert homes[0] == homes[1] != homes[2]
    assert all(Path(home).parent == tmp_path / "home" / ".cache" / "rollout-harvest" for home in homes)


def test_heartbeats_are_as_frequent_as_the_automations_expect() -> None:
    environment = {"PREFECT_API_URL": "http://127.0.0.1:4200/api"}
    configure_prefect(Path("runs"), environment)
    [zombie, *_] = yaml.safe_load((ROOT / "infra" / "automations.yaml").read_text(encoding="utf-8"))["automations"]
    program = "from prefect.settings import get_current_settings as s; print(s().flows.heartbeat_frequency)"
    seen = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    assert 10 * int(seen.stdout) == zombie["trigger"]["within"]


def test_a_setting_of_the_user_is_kept() -> None:
    environment = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "60"}
    set_prefect_defaults(environment)
    assert environment["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "60"


def test_the_flow_is_imported_without_pandas_which_can_still_be_imported() -> None:
    script = """
import sys
from flows.server.prefect_environment import import_prefect_without_pandas
import_prefect_without_pandas()
import flows.collect
assert "pandas" not in sys.modules
import pandas
assert pandas.DataFrame({"a": [1]}).shape == (1, 1)
"""
    subprocess.run([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)


@pytest.mark.parametrize(("factor", "start", "request_limit"), [("1", "300", None), ("2.5", "750", "150")])
def test_prefects_own_limits_follow_the_factor_of_time_limits(
    monkeypatch: pytest.MonkeyPatch, factor: str, start: str, request_limit: str | None
) -> None:
    monkeypatch.setenv(FACTOR_VARIABLE, factor)
    environment: dict[str, str] = {}
    set_prefect_defaults(environment)
    assert environment["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] == start
    assert environment.get("PREFECT_API_REQUEST_TIMEOUT") == request_limit
