"""Settings for Prefect, made before prefect is imported; whatever the user has set stands."""

import importlib
import os
import sys
import tomllib
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, cast

_DEFAULTS = {
    # in seconds: the automation against zombies takes ten of them for a sign that nobody lives
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # where settings are left to Prefect and name no server after all, it starts its own
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "PREFECT_CLI_PROMPT": "false",
}
# what else may name a server: these are left to Prefect to read
_OTHER_VARIABLES = ("PREFECT_API_URL", "PREFECT_PROFILES_PATH")
_OTHER_FILES = ("prefect.toml", ".env")


def set_prefect_defaults(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set what every process of ours that uses Prefect is to have, and the user has not set otherwise."""
    for name, value in _DEFAULTS.items():
        environment.setdefault(name, value)


def import_prefect_without_pandas() -> None:
    """Import prefect a second sooner, and 40 MB smaller, than by itself.

    Its cache policies import pandas, for cache keys of data frames, if it is there, and ``datasets`` brings it. No task
    of ours caches anything. Whoever imports pandas later gets it.
    """
    if "pandas" in sys.modules:
        return
    # how Python says that a module cannot be imported
    modules = cast(dict[str, Any], sys.modules)
    modules["pandas"] = None
    try:
        importlib.import_module("prefect.cache_policies")
    finally:
        del modules["pandas"]


def configure_prefect(
    runs_dir: Path, environment: MutableMapping[str, str] = os.environ, *, verbose: bool = False
) -> bool:
    """Use the user's Prefect where there is one, and otherwise a home of our own below ``runs_dir``.

    Returns:
        Whether no server is set up anywhere; ``PREFECT_HOME`` is then set.
    """
    set_prefect_defaults(environment)
    if not verbose:
        # Prefect's database keeps the whole log; the terminal shows progress instead
        environment.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
        environment.setdefault("PREFECT_SERVER_LOGGING_LEVEL", "CRITICAL")
    if any(name in environment for name in _OTHER_VARIABLES) or _has_settings_file():
        return False
    theirs = Path(environment.get("PREFECT_HOME") or Path(environment.get("HOME", "/")) / ".prefect")
    if "PREFECT_HOME" in environment or (theirs / "profiles.toml").exists():
        home = theirs
    elif "PREFECT_PROFILE" in environment:
        return False
    else:
        home = runs_dir / ".prefect"
    if _names_a_server(home / "profiles.toml", environment.get("PREFECT_PROFILE")):
        return False
    home.mkdir(parents=True, exist_ok=True)
    environment["PREFECT_HOME"] = str(home.resolve())
    return True


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
        # Prefect says best what it does not like about it
        return True
    profile = found.get("profiles", {}).get(active or found.get("active", ""), {})
    return "PREFECT_API_URL" in profile
