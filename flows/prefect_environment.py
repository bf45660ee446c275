"""Settings for Prefect's embedded server, made before prefect is imported; whatever the user has set stands."""

import os
from collections.abc import MutableMapping
from pathlib import Path

_QUIET_DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # the embedded server takes 8 to 18 s at first use on a small machine, and minutes on one that is busy
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "PREFECT_CLI_PROMPT": "false",
}


def prepare_prefect(
    runs_dir: Path, environment: MutableMapping[str, str] = os.environ, *, verbose: bool = False
) -> None:
    """Use the user's Prefect where there is one, and otherwise a home of our own below ``runs_dir``."""
    for name, value in _QUIET_DEFAULTS.items():
        environment.setdefault(name, value)
    if not verbose:
        # Prefect's database keeps the whole log; the terminal shows progress instead
        environment.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
        environment.setdefault("PREFECT_SERVER_LOGGING_LEVEL", "CRITICAL")
    if "PREFECT_API_URL" in environment or "PREFECT_HOME" in environment or "PREFECT_PROFILE" in environment:
        return
    user_profiles = Path(environment.get("HOME", "/")) / ".prefect" / "profiles.toml"
    if not user_profiles.exists():
        home = (runs_dir / ".prefect").resolve()
        home.mkdir(parents=True, exist_ok=True)
        environment["PREFECT_HOME"] = str(home)
