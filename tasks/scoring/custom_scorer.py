"""A scorer that the user wrote, given as ``package.module:function`` or ``path/to/file.py:function``.

``profiles/README.md`` has the contract, ``scorer_calls`` the forms that a function may have, and ``scorer_process``
says where it runs. A module is looked for in the working directory first.

A row that the function fails on, or returns something else for, has a null reward, and the reason as its method. When
that is every row, or each of the first rows that are tried, the scorer is at fault and the run ends.
"""

import difflib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from tasks.errors import ConfigError
from tasks.plain_text import one_line, shortened
from tasks.records import ROLLOUT_SCHEMA, SCORE_SCHEMA
from tasks.scoring.judge_cache import JudgeCache
from tasks.scoring.score import SCORER_OUTPUT
from tasks.scoring.scorer_calls import dataset_columns, rollout_columns, row_arguments
from tasks.scoring.scorer_process import CONTRACT, Described, ScorerSource, describe_scorer, lent_processes
from tasks.scoring.scorer_run import AllFailed, Outcome, ScorerRun

logger = logging.getLogger(__name__)

FAILED = "failed: "
"""Begins the method of a row that has no reward because the function failed on it; the reason follows."""
_RESERVED = ROLLOUT_SCHEMA.keys() | SCORE_SCHEMA.keys()
_MOST_EXTRA = 100
CACHE = "judge_cache.sqlite"


@dataclass(frozen=True, kw_only=True)
class CustomScorer:
    """Calls a function of the user for each row, in a process of its own."""

    name: str
    """``package.module:function`` or ``file.py:function``, without the file's directory."""
    source: ScorerSource
    described: Described
    state: Path | None = None
    """The ``state/`` of the run that is scored, for the cache of an asynchronous function."""
    may_fail: bool = False
    """Whether it may fail on all rows: it gave rewards before, and these may be those on which it fails."""

    @classmethod
    def load(cls, given: str) -> "CustomScorer":
        """The scorer that the user gave as ``given``.

        Its version is the module's ``SCORER_VERSION``, else the first 12 hex digits of the sha256 of the module's
        source. Raises ConfigError, which names the part of ``given`` that cannot be imported or called.
        """
        place, _, function = given.rpartition(":")
        if not place or not function.isidentifier():
            raise ConfigError(f"scorer {given!r} is not a path to a function. {CONTRACT}")
        name = given
        if place.endswith(".py") or "/" in place:
            path = Path(place)
            _check_file(path, given)
            place, name = str(path.absolute()), f"{path.name}:{function}"
        source = ScorerSource(place=place, function=function, given=given)
        return cls(name=name, source=source, described=describe_scorer(source))

    @property
    def version(self) -> str:
        return self.described.version

    @property
    def columns(self) -> list[str]:
        """Columns of the rollouts that ``score_columns`` needs."""
        return rollout_columns(self.described)

    @property
    def dataset_columns(self) -> tuple[list[str], list[str] | None]:
        """Columns that the dataset must have, and those that it may have; None for all."""
        return dataset_columns(self.described)

    def score_columns(self, rows: pl.DataFrame) -> pl.DataFrame:
        """SCORER_OUTPUT for ``rows``, in order, and after it the extra columns that the function returns.

        Raises ConfigError with the first row's texts when the function gives a score for no row.
        """
        cache = None
        if self.described.is_async and self.state is not None:
            cache = JudgeCache(self.state / CACHE, self.name, self.version)
        try:
            with lent_processes(self.source) as lender:
                asked = row_arguments(self.described, rows)
                outcomes = ScorerRun(lender, self.described, asked, cache, may_fail=self.may_fail).outcomes()
        except AllFailed as error:
            raise ConfigError(
                f"{self._told(rows, error.first, error.outcome)}, and so on all {error.tried:,} rollouts that were "
                f"tried, of {rows.height:,} of a shard. Fix it, then score again"
            ) from None
        finally:
            if cache is not None:
                cache.close()
        outcomes = [_without_reserved(outcome) for outcome in outcomes]
        if failed := [index for index, outcome in enumerate(outcomes) if outcome.result is None]:
            told = self._told(rows, failed[0], outcomes[failed[0]])
            if len(failed) == len(outcomes) and not self.may_fail:
                raise ConfigError(
                    f"{told}, and so on all {len(failed):,} rollouts of a shard. Fix it, then score again"
                )
            logger.warning("%s; so %d of %d rollouts of a shard have no reward", told, len(failed), len(outcomes))
        return _frame(outcomes)

    def _told(self, rows: pl.DataFrame, index: int, outcome: Outcome) -> str:
        truth, completion = rows["ground_truth"][index], rows["completion"][index]
        texts = f"ground truth {shortened(repr(truth), 200)} and completion {completion[-200:]!r}"
        at = f", at {one_line(outcome.trace, 300)}" if outcome.trace else ""
        return f"scorer {self.name!r} failed on {texts} ({outcome.error}{at})"


def _check_file(path: Path, given: str) -> None:
    if path.is_file():
        return
    near = difflib.get_close_matches(path.name, [found.name for found in path.parent.glob("*.py")], n=1)
    meant = f". Did you mean {path.parent / near[0]}?" if near else ""
    raise ConfigError(f"scorer {given!r}: there is no file {path}{meant}. {CONTRACT}")


def _without_reserved(outcome: Outcome) -> Outcome:
    extra = outcome.result["extra"] if outcome.result else {}
    if taken := [name for name in extra if name in _RESERVED]:
        return Outcome(error=f"it returned {taken[0]!r}, which is the name of a column of ours. Give it another name")
    if len(extra) > _MOST_EXTRA:
        return Outcome(error=f"it returned {len(extra)} columns; at most {_MOST_EXTRA} are stored")
    return outcome


def _frame(outcomes: list[Outcome]) -> pl.DataFrame:
    none: dict[str, Any] = {"reward": None, "answer": None, "flexible": False, "extra": {}}
    found = [outcome.result or {**none, "method": f"{FAILED}{one_line(outcome.error, 200)}"} for outcome in outcomes]
    frame = pl.DataFrame(
        {
            "reward": [result["reward"] for result in found],
            "extracted_answer": [result["answer"] for result in found],
            "extraction_method": [result["method"] for result in found],
            "correct_flexible": [result["flexible"] for result in found],
        },
        schema=SCORER_OUTPUT,
        strict=False,
    )
    names = sorted({name for result in found for name in result["extra"]})
    return frame.with_columns(_column(name, [result["extra"].get(name) for result in found]) for name in names)


def _column(name: str, values: list[bool | float | str | None]) -> pl.Series:
    """The values in the narrowest of three types: truth values, numbers, texts. ``extra_columns`` joins shards."""
    kinds = {type(value) for value in values if value is not None}
    if str in kinds:
        return pl.Series(name, [_as_text(value) for value in values], pl.String)
    if kinds == {bool}:
        return pl.Series(name, values, pl.Boolean)
    return pl.Series(name, [None if value is None else float(value) for value in values], pl.Float64)


def _as_text(value: bool | float | str | None) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)
