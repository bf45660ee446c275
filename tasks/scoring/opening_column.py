"""Finds the rollouts of a run whose prompts end inside reasoning, by the openings on record in its prompts.json."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from tasks.records import RunPaths
from tasks.scoring.reasoning_opening import ReasoningOpening
from tasks.storage.published import read_published


@dataclass(frozen=True, kw_only=True)
class _Prompts:
    openings: tuple[ReasoningOpening, ...] = ()


def read_openings(run_dir: Path) -> tuple[ReasoningOpening, ...] | None:
    """The openings of the run's prompts; None when they are not on record. Raises DamagedFile."""
    known = read_published(RunPaths(root=run_dir).prompts, _Prompts)
    return None if known is None else known.openings


def add_openings(rollouts: pl.DataFrame, openings: Iterable[ReasoningOpening]) -> pl.DataFrame:
    """``rollouts`` with the column ``opening`` in place of ``prompt_ids``: the opening's text, or an empty text."""
    found = pl.lit("")
    for opening in openings:
        ids = pl.lit(list(opening.ids), pl.List(pl.Int32))
        is_opened = pl.col("prompt_ids").list.tail(len(opening.ids)) == ids
        found = pl.when(is_opened).then(pl.lit(opening.text)).otherwise(found)
    return rollouts.with_columns(found.alias("opening")).drop("prompt_ids")


def whole_completions(rows: pl.DataFrame) -> pl.Series:
    """The completions of ``rows``, each behind the opening of its reasoning, if the prompt has it."""
    if "opening" not in rows.columns:
        return rows["completion"]
    return rows.select(pl.col("opening") + pl.col("completion")).to_series()
