"""Brings the logs of a node's replicas to the run's ``logs/node-NAME/``, while they are written."""

import re
from collections.abc import Mapping
from pathlib import Path

MOST_AT_ONCE = 256 << 10
"""Bytes of a log in one report."""


class LogTails:
    """What was added to each log file in ``directory`` since the last look; at first, since it was made."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._read = {path.name: path.stat().st_size for path in directory.glob("*.log")}

    def new(self) -> dict[str, bytes]:
        """Return the bytes that were added, by file name. Files without news are left out."""
        found = {}
        for path in sorted(self._directory.glob("*.log")):
            with path.open("rb") as file:
                file.seek(self._read.get(path.name, 0))
                if data := file.read(MOST_AT_ONCE):
                    self._read[path.name] = file.tell()
                    found[path.name] = data
        return found


def node_directory(logs: Path, node: str) -> Path:
    """Return where the logs of ``node`` are kept; its name may hold what no file name should."""
    return logs / f"node-{re.sub(r'[^A-Za-z0-9_.-]', '_', node)}"


def add_logs(logs: Path, node: str, new: Mapping[str, bytes]) -> None:
    """Add what came from ``node`` to the files in its directory below ``logs``. Raises OSError."""
    for name, data in new.items():
        directory = node_directory(logs, node)
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / Path(name).name).open("ab") as file:
            file.write(data)
