"""What a row of a dataset file is, and how large a file and a row may be."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.errors import ConfigError
from tasks.units import MIB

Row = Mapping[str, Any]

MOST_ROWS = 10_000_000
"""The most rows of a file. Its questions are in memory together."""
LARGEST_ROW = 32 * MIB
"""The most characters of a row, or of a cell of a Parquet file."""


def row_too_large(path: Path) -> ConfigError:
    """Return the error for a row of the file ``path`` that is larger than LARGEST_ROW."""
    return ConfigError(
        f"dataset file {path} has a row of more than {LARGEST_ROW:,} characters, the most that a row may have. Remove "
        "the row, and check that the file is what its name says"
    )


def limit_rows(rows: Iterable[Row], path: Path) -> Iterator[Row]:
    """Yield ``rows`` of the file ``path``. Raises ConfigError when there are more than MOST_ROWS."""
    for number, row in enumerate(rows):
        if number == MOST_ROWS:
            raise ConfigError(
                f"dataset file {path} has more than {MOST_ROWS:,} rows, the most that are read. Ask for fewer "
                "--questions, or split the file"
            )
        yield row
