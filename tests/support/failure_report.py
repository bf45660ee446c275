"""What a failed test shows beside its error: the tails of the logs that its processes wrote.

These are the ``*.log`` files below the test's ``tmp_path``, and the logs of servers that several tests share.
"""

from pathlib import Path

import pytest

from tests.support.patience import tails

MOST_LOGS = 12
shared_logs: list[Path] = []
"""Logs of the servers that this session's fixtures have started."""


def log_section(item: pytest.Item) -> tuple[str, str] | None:
    """Title and text for the report of a failed test; None when nothing was logged. The latest logs come first."""
    folder = getattr(item, "funcargs", {}).get("tmp_path")
    own = [path for path in folder.rglob("*.log") if path.is_file()] if isinstance(folder, Path) else []
    found = sorted((path for path in [*own, *shared_logs] if path.is_file()), key=_written_at, reverse=True)
    if not found:
        return None
    left_out = f"and {len(found) - MOST_LOGS} older logs\n" if len(found) > MOST_LOGS else ""
    return "tails of logs", tails(found[:MOST_LOGS]) + left_out


def _written_at(path: Path) -> float:
    return path.stat().st_mtime
