"""The columns of a shard file: whoever wrote it, they must be what the readers of a run rely on."""

import functools
from pathlib import Path

import polars as pl

from tasks.errors import DamagedFile
from tasks.files import file_identity
from tasks.plain_text import one_line
from tasks.records import LATER_ROLLOUT_COLUMNS, QUESTION_SCHEMA, ROLLOUT_SCHEMA, SCORE_SCHEMA, folder_kind

SHARD_SCHEMAS = {"questions": QUESTION_SCHEMA, "rollouts": ROLLOUT_SCHEMA, "scores": SCORE_SCHEMA}
"""By the folder of a shard file."""
_NEVER_NULL = {
    "questions": {"example_id", "question", "ground_truth"},
    "rollouts": {"rollout_id", "example_id", "arm_id", "sample_index", "is_truncated", "num_completion_tokens"},
    "scores": {"rollout_id", "scorer", "scorer_version"},
}


def check_columns(path: Path) -> None:
    """Raise DamagedFile when the shard file lacks a column of its schema, or has one of another type or with nulls.

    Reads the end of the file alone, and once per process. Whether there are nulls is taken from its statistics.
    """
    if folder_kind(path.parent.name) not in SHARD_SCHEMAS:
        return
    if wrong := _wrong_column(path, file_identity(path.stat())):
        raise DamagedFile(
            f"{path} is not of a run of Rollout Harvest: {wrong}. Generate the run again, or download it again"
        )


@functools.lru_cache(maxsize=65_536)
def _wrong_column(path: Path, identity: tuple[int, ...]) -> str | None:
    folder = folder_kind(path.parent.name)
    with path.open("rb") as file:
        found = pl.read_parquet_schema(file)
    later = pl.Schema(LATER_ROLLOUT_COLUMNS if folder == "rollouts" else {})
    for name, kind in [*SHARD_SCHEMAS[folder].items(), *later.items()]:
        if name not in found:
            if name in later:
                continue
            return f"it has no column {name}"
        if found[name] != kind:
            return f"its column {name} holds {one_line(str(found[name]), 200)}, not {kind}"
    return next((f"its column {name} has nulls" for name in sorted(_with_nulls(path) & _NEVER_NULL[folder])), None)


def _with_nulls(path: Path) -> set[str]:
    import pyarrow.parquet

    metadata = pyarrow.parquet.read_metadata(path)
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    columns = [group.column(index) for group in groups for index in range(group.num_columns)]
    return {column.path_in_schema for column in columns if column.statistics and column.statistics.null_count}
