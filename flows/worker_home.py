"""The pull step of every deployment: a worker's flow runs work in one directory of the node, not in one of their own.

Prefect starts each flow run in a temporary directory that it deletes; runs, models and datasets given by relative
paths must outlive it.
"""

import os
from pathlib import Path

from tasks.errors import ConfigError

HOME_VARIABLE = "HARVEST_HOME"


def enter_harvest_home() -> dict[str, str]:
    """Change to the directory that HARVEST_HOME names on the worker, by default ~/rollout-harvest; make it first.

    Raises ConfigError when it cannot be made.
    """
    directory = Path(os.environ.get(HOME_VARIABLE) or "~/rollout-harvest").expanduser()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        os.chdir(directory)
    except OSError as error:
        raise ConfigError(
            f"the worker cannot work in {directory}: {error}. Set {HOME_VARIABLE} in its environment to a directory "
            "that it may write to"
        ) from error
    return {"directory": str(Path.cwd())}
