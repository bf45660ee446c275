"""Runs a scorer that the user wrote, given as ``package.module:function``.

The function is called as ``function(completion, ground_truth, finish_reason)`` with two strings and a string or None.
It returns a ``tasks.scoring.score.Score`` or a number, the reward: whatever ``float`` takes, with one value, and is no
text, also of NumPy and torch. The module is imported as ``python -m`` does it: from the working directory first.

A row that the function fails on, or returns something else for, has a null reward, and the reason as its method. When
that is every row of a shard, the scorer is at fault and the run ends.
"""

import hashlib
import importlib
import inspect
import logging
import math
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from tasks.errors import ConfigError
from tasks.plain_text import one_line, shortened
from tasks.scoring.score import Score, scorer_output
from tasks.user_code import kept_environment, user_code

logger = logging.getLogger(__name__)

ScoreFunction = Callable[[str, str, str | None], Score | float]


@dataclass(frozen=True, kw_only=True)
class CustomScorer:
    """Calls ``function`` row by row."""

    name: str
    version: str
    function: ScoreFunction

    @classmethod
    def load(cls, path: str) -> "CustomScorer":
        """The scorer at ``package.module:function``.

        Its version is the module's ``SCORER_VERSION``, else the first 12 hex digits of the sha256 of the module's
        source. Raises ConfigError, which names the part of ``path`` that cannot be imported or called.
        """
        module_name, _, function_name = path.partition(":")
        if not module_name or not function_name.isidentifier():
            raise ConfigError(
                f"scorer {path!r} is not a path; give package.module:function, such as my_pkg.scores:exact"
            )
        if str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        with user_code(
            lambda what: (
                f"scorer {path!r}: module {module_name!r} cannot be imported ({what}). Install it, or run from the "
                "folder that holds it"
            )
        ):
            module = importlib.import_module(module_name)
        with user_code(lambda what: f"scorer {path!r}: {function_name!r} cannot be read ({what}). Name a function"):
            function = getattr(module, function_name, _ABSENT)
            is_callable = callable(function)
        if not is_callable:
            found = "does not exist" if function is _ABSENT else "is not callable"
            place = getattr(module, "__file__", None) or module_name
            raise ConfigError(f"scorer {path!r}: {function_name!r} {found} in {place}. Name a function there")
        with user_code(
            lambda what: (
                f"scorer {path!r} cannot be called with (completion, ground_truth, finish_reason): {what}. Give it "
                "these three parameters"
            )
        ):
            inspect.signature(function).bind("completion", "ground_truth", "stop")
        with user_code(lambda what: f"scorer {path!r} has no version ({what}). Declare SCORER_VERSION in its module"):
            version = _version(module)
        return cls(name=path, version=version, function=function)

    def score_columns(self, rows: pl.DataFrame) -> pl.DataFrame:
        """SCORER_OUTPUT for ``rows``, in order.

        Raises ConfigError with the first row's texts when the function gives a score for no row.
        """
        scores: list[Score] = []
        failed, first = 0, ""
        with kept_environment():
            for completion, ground_truth, finish_reason in rows.select(_ARGUMENTS).iter_rows():
                try:
                    scores.append(self._score(completion, ground_truth, finish_reason))
                except ConfigError as error:
                    first = first or self._told(completion, ground_truth, error)
                    failed += 1
                    method = f"{FAILED}{one_line(str(error), 200)}"
                    scores.append(Score(reward=math.nan, extracted_answer=None, method=method, correct_flexible=False))
        if failed and failed == len(scores):
            raise ConfigError(f"{first}, and so on all {failed:,} rollouts of a shard. Fix it, then score again")
        if failed:
            logger.warning("%s; so %d of %d rollouts of a shard have no reward", first, failed, len(scores))
        return scorer_output(scores)

    def _told(self, completion: str, ground_truth: str, error: ConfigError) -> str:
        texts = f"ground truth {shortened(repr(ground_truth), 200)} and completion {completion[-200:]!r}"
        return f"scorer {self.name!r} failed on {texts} ({error})"

    def _score(self, completion: str, ground_truth: str, finish_reason: str | None) -> Score:
        with user_code(lambda what: what):
            result: Any = self.function(completion, ground_truth, finish_reason)
            # reading the result may run code of its class
            score = _as_score(result)
            returned = "" if score else repr(result)
        if score is None:
            raise ConfigError(f"it returned {shortened(returned, 200)}, which is neither a finite number nor a Score")
        return score


_ARGUMENTS = ("completion", "ground_truth", "finish_reason")
_ABSENT: Any = object()
FAILED = "failed: "
"""Begins the method of a row that has no reward because the function failed on it; the reason follows."""


def _as_score(result: Any) -> Score | None:
    """``result`` as a score of plain values; None when it is neither a score nor a number, or is infinite.

    Raises what reading the result raises, and an error for a value that a file of scores cannot hold.
    """
    reward = _number(result.reward if isinstance(result, Score) else result)
    if reward is None or math.isinf(reward):
        return None
    struct.pack("<f", reward)  # raises OverflowError for what a Float32 would make infinite
    if not isinstance(result, Score):
        return Score(reward=reward, extracted_answer=None, method="custom", correct_flexible=reward == 1)
    answer = result.extracted_answer
    return Score(
        reward=reward,
        extracted_answer=None if answer is None else _text(answer),
        method=_text(result.method),
        correct_flexible=bool(result.correct_flexible),
    )


def _number(value: Any) -> float | None:
    """``value`` as a float; None for a text, a complex number, an array of one dimension or more, and no number."""
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, (str, bytes, bytearray, complex)) or getattr(value, "ndim", 0) != 0:
        return None
    return float(value) if hasattr(value, "__float__") or hasattr(value, "__index__") else None


def _text(value: Any) -> str:
    """``value`` as a text. Raises UnicodeEncodeError for half of a surrogate pair, which no file holds."""
    text = str(value)
    text.encode()
    return text


def _version(module: Any) -> str:
    declared = getattr(module, "SCORER_VERSION", None)
    if declared is not None:
        return _text(declared)
    return hashlib.sha256(inspect.getsource(module).encode()).hexdigest()[:12]
