"""Sets environment variables for Prefect, before prefect is imported.

It never replaces a user's own setting, neither in the environment nor in Prefect's files.
"""

import hashlib
import importlib
import os
import sys
import tomllib
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, cast

from tasks.time_limits import time_limit, time_limit_factor
from tasks.user_paths import check_directory, user_path

_DEFAULTS = {
    # in seconds; the automation harvest-zombie takes ten missed heartbeats as the end of a flow run
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLI_PROMPT": "false",
}
# Prefect starts its own server if the user's settings turn out to name none
_EPHEMERAL_START_SECONDS = 300.0
# Prefect's own limit
_REQUEST_SECONDS = 60.0
# SQLite takes paths of up to 512 bytes; the names of the database and its journal are shorter than 32
_LONGEST_HOME = 480
_TERMINAL_LEVELS = (
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL",
    "PREFECT_LOGGING_INTERNAL_LEVEL",
    "PREFECT_SERVER_LOGGING_LEVEL",
)
# these may name a server too; Prefect reads them itself
_OTHER_VARIABLES = ("PREFECT_API_URL", "PREFECT_PROFILES_PATH")
_OTHER_FILES = ("prefect.toml", ".env")


def set_prefect_defaults(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set the variables that every process with Prefect needs, unless the user has set them."""
    for name, value in _DEFAULTS.items():
        environment.setdefault(name, value)
    environment.setdefault(
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", f"{time_limit(_EPHEMERAL_START_SECONDS):.0f}"
    )
    # otherwise it is as the user's files for Prefect have it
    if time_limit_factor() > 1:
        environment.setdefault("PREFECT_API_REQUEST_TIMEOUT", f"{time_limit(_REQUEST_SECONDS):g}")


def import_prefect_without_pandas() -> None:
    """Import prefect without pandas: this saves a second and 40 MB. A later import of pandas works as usual.

    Prefect's cache policies import pandas if it is installed, for cache keys of data frames. ``datasets`` installs it,
    but no task here caches anything.
    """
    if "pandas" in sys.modules:
        return
    # with None here Python reports that the module cannot be imported
    modules = cast(dict[str, Any], sys.modules)
    modules["pandas"] = None
    try:
        importlib.import_module("prefect.cache_policies")
    finally:
        del modules["pandas"]


def configure_prefect(
    runs_dir: Path, environment: MutableMapping[str, str] = os.environ, *, verbose: bool = False
) -> bool:
    """Set the variables for a flow run in this process. Return whether the run needs an embedded server.

    It needs one if no settings name a server. ``PREFECT_HOME`` is then set: to the user's own Prefect home if there is
    one, otherwise to a directory for ``runs_dir``, which only its owner may read. Without ``verbose`` Prefect's log
    stays off the terminal. Raises ConfigError when the directory cannot be written.
    """
    set_prefect_defaults(environment)
    if not verbose:
        # the terminal shows progress; the whole log is in Prefect's database
        for name in _TERMINAL_LEVELS:
            environment.setdefault(name, "CRITICAL")
    if any(name in environment for name in _OTHER_VARIABLES) or _has_settings_file():
        return False
    user_home = Path(environment.get("PREFECT_HOME") or Path(environment.get("HOME", "/")) / ".prefect")
    if "PREFECT_HOME" in environment or (user_home / "profiles.toml").exists():
        home = user_home
    elif "PREFECT_PROFILE" in environment:
        return False
    else:
        home = _home_of(runs_dir)
    if _names_a_server(home / "profiles.toml", environment.get("PREFECT_PROFILE")):
        return False
    check_directory(home, "Prefect's directory")
    home.mkdir(parents=True, exist_ok=True)
    if home != user_home:
        # the database holds the parameters of all runs
        home.chmod(0o700)
    environment["PREFECT_HOME"] = str(home.resolve())
    return True


def _home_of(runs_dir: Path) -> Path:
    """Return ``.prefect`` in ``runs_dir``, or a directory below ~/.cache when SQLite cannot open a database there."""
    home = (runs_dir / ".prefect").resolve()
    name = str(home)
    if len(os.fsencode(name)) <= _LONGEST_HOME and "?" not in name:
        return home
    return user_path("~/.cache/rollout-harvest") / hashlib.sha256(name.encode()).hexdigest()[:16]


def _has_settings_file() -> bool:
    pyproject = Path("pyproject.toml")
    return any(Path(name).exists() for name in _OTHER_FILES) or (
        pyproject.exists() and "[tool.prefect" in pyproject.read_text(errors="replace")
    )


def _names_a_server(profiles: Path, active: str | None) -> bool:
    if not profiles.exists():
        return False
    try:
        found = tomllib.loads(profiles.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        # Prefect itself explains best why it cannot read the file
        return True
    profile = found.get("profiles", {}).get(active or found.get("active", ""), {})
    return "PREFECT_API_URL" in profile
