"""Reads a Parquet dataset file. A process of its own reads it first, as damaged bytes can end a process."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import polars as pl

from profiles.regular_files import open_regular
from tasks.errors import ConfigError, HarvestError
from tasks.files import file_identity
from tasks.plan.dataset_limits import LARGEST_ROW, MOST_ROWS, Row, row_too_large
from tasks.process_limits import limit_memory
from tasks.subprocess_call import call_in_subprocess
from tasks.units import GIB, MIB

_BLOCK = MIB
_BATCH_ROWS = 4096
_CHILD_BYTES = 4 * GIB
"""How much memory a Parquet file may take to read, beside what the libraries take."""


def parquet_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file that ``check_parquet`` has passed. Raises ConfigError, OSError and ArrowException."""
    with open_regular(path) as file:
        for batch in _batches(file, path):
            yield from pl.DataFrame(pl.from_arrow(batch)).iter_rows(named=True)


def check_parquet(files: Sequence[Path]) -> None:
    """Raise ConfigError when a file cannot be read. Each is read once per process, and again when it has changed."""
    found = {file.absolute(): file_identity(file.stat()) for file in files}
    if new := {file: identity for file, identity in found.items() if _checked.get(file) != identity}:
        check_in_process(_read_parquet, *new)
        _checked.update(new)


_checked: dict[Path, tuple[int, ...]] = {}
"""The Parquet files that this process need not check again, and how they were then."""


def check_in_process(read: Callable[[Path], None], *files: Path) -> None:
    """Call ``read`` with each of ``files`` in a process of its own, which damaged bytes may end.

    Raises ConfigError when a call raises it, or when the process ends.
    """
    with tempfile.TemporaryDirectory(prefix="harvest-dataset-") as directory:
        try:
            call_in_subprocess(_read_all, "the check of a dataset", Path(directory) / "log", read, files)
        except ConfigError:
            raise
        except HarvestError as error:
            more = f" or one of the {len(files) - 1} after it" if len(files) > 1 else ""
            raise ConfigError(
                f"dataset file {files[0]}{more} cannot be read: {str(error).partition(' (log')[0]}. Check that it is a "
                f"{files[0].suffix} file"
            ) from None


def _read_all(read: Callable[[Path], None], files: Sequence[Path]) -> None:
    for file in files:
        read(file)


def _read_parquet(path: Path) -> None:
    import pyarrow

    limit_memory(_CHILD_BYTES)
    try:
        with open_regular(path) as file:
            rows = 0
            for batch in _batches(file, path):
                rows += batch.num_rows
                if rows > MOST_ROWS:  # nobody will read the others
                    break
    except MemoryError:
        raise ConfigError(
            f"dataset file {path} takes more than {_CHILD_BYTES // GIB} GiB of memory to read, although it is read in "
            "blocks. Write it with smaller row groups and cells"
        ) from None
    except (OSError, pyarrow.ArrowException) as error:
        raise ConfigError(f"dataset file {path} cannot be read: {error}. Check that it is a .parquet file") from None


def _batches(file: BinaryIO, path: Path) -> Iterator[Any]:
    """Yield the rows of a Parquet file as checked record batches of a few megabytes."""
    import pyarrow.compute
    import pyarrow.parquet

    parquet = pyarrow.parquet.ParquetFile(file, buffer_size=_BLOCK, pre_buffer=False)
    groups = [parquet.metadata.row_group(index) for index in range(parquet.num_row_groups)]
    row_bytes = sum(group.total_byte_size for group in groups) // max(1, parquet.metadata.num_rows)
    batch_size = max(1, min(_BATCH_ROWS, _BLOCK * 16 // max(1, row_bytes)))
    for batch in parquet.iter_batches(batch_size=batch_size, use_threads=False):
        batch.validate(full=True)
        for column in batch.columns:
            if pyarrow.types.is_large_string(column.type) or pyarrow.types.is_string(column.type):
                longest = pyarrow.compute.max(pyarrow.compute.binary_length(column)).as_py()
                if (longest or 0) > LARGEST_ROW:
                    raise row_too_large(path)
        yield batch
