"""The columns that a scorer of the user adds to its scores, made alike in all shards.

Each shard is written by itself, so one may lack a column that another has, or hold whole numbers where another holds
fractions. When all are there, those that differ are written again with every column, in its widest type: truth values
are numbers, and everything is a text.
"""

from collections.abc import Iterable
from pathlib import Path

import polars as pl

from tasks.files import publish_parquet
from tasks.records import SCORE_SCHEMA
from tasks.storage.published import published_record, record_published, recorded_path

_WIDTH = [pl.Boolean, pl.Float64, pl.String]


def align_extra_columns(shards: Iterable[Path]) -> None:
    """Give all score files that are there the same columns. What a kill leaves undone, the next call does."""
    found = {path: _extra(path) for path in shards if path.is_file()}
    widest: dict[str, int] = {}
    for columns in found.values():
        for name, kind in columns.items():
            widest[name] = max(widest.get(name, 0), _WIDTH.index(kind))
    wanted = {name: _WIDTH[widest[name]] for name in sorted(widest)}
    for path, columns in found.items():
        if list(columns.items()) == list(wanted.items()):
            continue
        record = published_record(path)
        rows = pl.read_parquet(path, glob=False)
        new = rows.select(*SCORE_SCHEMA, *(_as(name, columns.get(name), kind) for name, kind in wanted.items()))
        publish_parquet(new, path, recorded_path)
        # the input of the scores is what it was, so they stay finished
        record_published(path, made_from=record.made_from if record else "")


def _extra(path: Path) -> dict[str, type[pl.DataType]]:
    with path.open("rb") as file:
        found = pl.read_parquet_schema(file)
    return {name: kind for name, kind in found.items() if name not in SCORE_SCHEMA}  # type: ignore[misc]  # a class


def _as(name: str, found: type[pl.DataType] | None, wanted: type[pl.DataType]) -> pl.Expr:
    if found is None:
        return pl.lit(None, wanted).alias(name)
    if wanted == pl.String and found == pl.Boolean:
        return pl.col(name).replace_strict({True: "true", False: "false"}, return_dtype=pl.String)
    return pl.col(name).cast(wanted)
