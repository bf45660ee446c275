"""What an asynchronous scorer, such as a judge over HTTP, gave for which arguments, so that no call is paid for twice.

It is in ``state/judge_cache.sqlite`` of a run: removed with the run, never uploaded. A kill loses nothing that SQLite
has committed. It grows by one entry per different row and version of the scorer, up to ``MOST_ENTRIES``; then the
oldest go.
"""

import contextlib
import hashlib
import json
import logging
import sqlite3
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

MOST_ENTRIES = 1_000_000
_WAIT_S = 60.0


class JudgeCache:
    """The entries of one scorer. A cache that cannot be used is logged and left out: it only saves calls."""

    def __init__(self, path: Path, scorer: str, version: str, *, most: int = MOST_ENTRIES) -> None:
        self._of = f"{scorer}@{version}"
        self._most = most
        self._database: sqlite3.Connection | None = None
        try:
            self._database = _open(path)
        except sqlite3.DatabaseError as error:
            logger.warning("%s is damaged and begins anew: %s", path, error)
            with contextlib.suppress(OSError, sqlite3.Error):
                path.unlink()
                self._database = _open(path)
        except (OSError, sqlite3.Error) as error:
            logger.warning("%s cannot be used: %s", path, error)

    def find(self, arguments: dict[str, Any]) -> dict[str, Any] | None:
        """Return the result that was stored for ``arguments``, or None."""
        if self._database is None:
            return None
        with contextlib.suppress(sqlite3.Error, ValueError):
            row = self._database.execute("SELECT result FROM results WHERE key = ?", [self._key(arguments)]).fetchone()
            return None if row is None else dict(json.loads(row[0]))
        return None

    def store(self, arguments: dict[str, Any], result: dict[str, Any]) -> None:
        """Store the ``result`` of a call with ``arguments``."""
        if self._database is None:
            return
        with contextlib.suppress(sqlite3.Error), self._database as transaction:
            added = transaction.execute(
                "INSERT OR REPLACE INTO results (key, result) VALUES (?, ?)", [self._key(arguments), json.dumps(result)]
            )
            transaction.execute("DELETE FROM results WHERE number <= ?", [(added.lastrowid or 0) - self._most])

    def close(self) -> None:
        if self._database is not None:
            self._database.close()

    def _key(self, arguments: dict[str, Any]) -> bytes:
        text = json.dumps([self._of, arguments], sort_keys=True)
        return hashlib.sha256(text.encode()).digest()


def _open(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(path, timeout=_WAIT_S)
    try:
        database.execute(
            "CREATE TABLE IF NOT EXISTS results "
            "(number INTEGER PRIMARY KEY AUTOINCREMENT, key BLOB UNIQUE NOT NULL, result TEXT NOT NULL)"
        )
    except sqlite3.Error:
        database.close()
        raise
    return database
