"""The pull step of every deployment: changes the working directory of a worker's flow run to HARVEST_HOME.

Prefect starts each flow run in a temporary directory and deletes it afterwards. Relative paths of runs, models and
datasets need a directory that stays.
"""

import os
from pathlib import Path

from tasks.errors import ConfigError
from tasks.user_paths import user_path

HOME_VARIABLE = "HARVEST_HOME"


def enter_harvest_home() -> dict[str, str]:
    """Make the directory that HARVEST_HOME names, by default ~/rollout-harvest, and change to it.

    Raises ConfigError when that fails.
    """
    directory = user_path(os.environ.get(HOME_VARIABLE) or "~/rollout-harvest")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        os.chdir(directory)
    except OSError as error:
        raise ConfigError(
            f"the worker cannot work in {directory}: {error}. Set {HOME_VARIABLE} in its environment to a directory "
            "that it may write to"
        ) from error
    return {"directory": str(Path.cwd())}
