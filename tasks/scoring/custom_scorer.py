"""Runs a scorer that the user wrote, given as ``package.module:function``.

The function is called as ``function(completion, ground_truth, finish_reason)`` with two strings and a string or None.
It returns a ``tasks.scoring.score.Score`` or a number, the reward. The module is imported as ``python -m`` does it:
from the working directory first.
"""

import hashlib
import importlib
import inspect
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from tasks.errors import ConfigError
from tasks.scoring.score import Score, scorer_output

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
        try:
            module = importlib.import_module(module_name)
        except Exception as error:
            raise ConfigError(
                f"scorer {path!r}: module {module_name!r} cannot be imported ({type(error).__name__}: {error}). "
                "Install it, or run from the folder that holds it"
            ) from error
        function = getattr(module, function_name, None)
        if not callable(function):
            found = "is not callable" if hasattr(module, function_name) else "does not exist"
            raise ConfigError(f"scorer {path!r}: {function_name!r} {found} in {module.__file__}. Name a function there")
        try:
            inspect.signature(function).bind("completion", "ground_truth", "stop")
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"scorer {path!r} cannot be called with (completion, ground_truth, finish_reason): {error}. Give it "
                "these three parameters"
            ) from error
        return cls(name=path, version=_version(module), function=function)

    def score_columns(self, rows: pl.DataFrame) -> pl.DataFrame:
        """SCORER_OUTPUT for ``rows``, in order.

        Raises ConfigError with the row's texts when the function fails or returns another type.
        """
        return scorer_output([self._score(*row) for row in rows.select(_ARGUMENTS).iter_rows()])

    def _score(self, completion: str, ground_truth: str, finish_reason: str | None) -> Score:
        try:
            result: Any = self.function(completion, ground_truth, finish_reason)
        except Exception as error:
            raise ConfigError(
                f"scorer {self.name!r} failed on ground truth {ground_truth!r} and completion "
                f"{completion[-200:]!r} ({type(error).__name__}: {error}). Fix it, then score again"
            ) from error
        if isinstance(result, Score) and not math.isinf(result.reward):
            return result
        if isinstance(result, (bool, int, float)) and (math.isfinite(result) or math.isnan(result)):
            return Score(reward=float(result), extracted_answer=None, method="custom", correct_flexible=result == 1)
        raise ConfigError(
            f"scorer {self.name!r} returned {result!r}; return a finite number, or a tasks.scoring.score.Score with one"
        )


_ARGUMENTS = ("completion", "ground_truth", "finish_reason")


def _version(module: Any) -> str:
    declared = getattr(module, "SCORER_VERSION", None)
    return (
        str(declared) if declared is not None else hashlib.sha256(inspect.getsource(module).encode()).hexdigest()[:12]
    )
