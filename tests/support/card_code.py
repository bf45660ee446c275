"""Runs the Python code of a README as a reader would paste it."""

import contextlib
from pathlib import Path
from typing import Any


def run_card_code(directory: Path, cwd: Path | None = None) -> dict[str, Any]:
    """Run the first Python block of ``directory/README.md`` there, or in ``cwd``; returns the names it defines."""
    code = (directory / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    with contextlib.chdir(cwd or directory):
        exec(code, names)
    return names
