"""Finds the files for Prefect that come with the project."""

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def shipped_file(name: str) -> Path:
    """Return ``infra/NAME``: in the installed package, where a wheel has it, or beside it in a checkout."""
    installed = _PACKAGE / "infra" / name
    return installed if installed.is_file() else _PACKAGE.parent / "infra" / name
