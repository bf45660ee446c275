"""Runs a scorer that the user wrote, given as ``package.module:function``.

The function is called as ``function(completion, ground_truth, finish_reason)`` with two strings and a string or None.
It returns a ``tasks.scoring.score.Score`` or a number, the reward. The module is imported as ``python -m`` does it:
from the working directory first.
"""

import hashlib
import importlib
import inspect
import math
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from tasks.errors import ConfigError
from tasks.plain_text import shortened
from tasks.scoring.score import Score, scorer_output
from tasks.user_code import kept_environment, user_code

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

        Raises ConfigError with the row's texts when the function fails or returns another type.
        """
        with kept_environment():
            return scorer_output([self._score(*row) for row in rows.select(_ARGUMENTS).iter_rows()])

    def _score(self, completion: str, ground_truth: str, finish_reason: str | None) -> Score:
        with user_code(
            lambda what: (
                f"scorer {self.name!r} failed on ground truth {ground_truth!r} and completion "
                f"{completion[-200:]!r} ({what}). Fix it, then score again"
            )
        ):
            result: Any = self.function(completion, ground_truth, finish_reason)
            # reading the result may run code of its class
            score = _as_score(result)
            returned = "" if score else repr(result)
        if score is None:
            raise ConfigError(
                f"scorer {self.name!r} returned {shortened(returned, 200)}; return a finite number, or a "
                "tasks.scoring.score.Score with one"
            )
        return score


_ARGUMENTS = ("completion", "ground_truth", "finish_reason")
_ABSENT: Any = object()


def _as_score(result: Any) -> Score | None:
    """``result`` as a score of plain values; None when it is neither a score nor a number, or is infinite.

    Raises what reading the result raises, and an error for a value that a file of scores cannot hold.
    """
    if isinstance(result, Score):
        answer = result.extracted_answer
        score = Score(
            reward=float(result.reward),
            extracted_answer=None if answer is None else _text(answer),
            method=_text(result.method),
            correct_flexible=bool(result.correct_flexible),
        )
    elif isinstance(result, (bool, int, float)):
        reward = float(result)
        score = Score(reward=reward, extracted_answer=None, method="custom", correct_flexible=reward == 1)
    else:
        return None
    struct.pack("<f", score.reward)  # raises OverflowError for what a Float32 would make infinite
    return None if math.isinf(score.reward) else score


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
