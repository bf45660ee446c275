"""How one of this project's extras is added to the environment that runs it, for messages."""

import sys
from pathlib import Path

UV_RECEIPT = "uv-receipt.toml"
"""The file in an environment that ``uv tool install`` made. Such an environment has no pip."""


def add_extra(name: str, environment: Path = Path(sys.prefix)) -> str:
    """Return what adds the extra ``name`` to the environment: a command, or words in its place."""
    if (environment / UV_RECEIPT).is_file():
        return f"the same uv tool install, with {name} in its brackets"
    return f"pip install 'rollout-harvest[{name}]'"
