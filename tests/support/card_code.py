"""Runs the Python code of a README as a reader would paste it."""

import contextlib
from pathlib import Path
from typing import Any

from tests.support.trainer_types import importable_trainers


def run_card_code(directory: Path, cwd: Path | None = None) -> dict[str, Any]:
    """Run the first Python block of ``directory/README.md`` there, or in ``cwd``; returns the names it defines.

    The block is a script of that directory, and may import what ``tests/support/trainers`` has of trainers.
    """
    cwd = cwd or directory
    code = (directory / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {"__name__": "__main__", "__file__": str(cwd / "card.py")}
    with contextlib.chdir(cwd), importable_trainers():
        exec(code, names)
    return names
