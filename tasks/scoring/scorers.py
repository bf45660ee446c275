"""Finds a scorer by its name: a built-in one, or a function of the user.

Imports a scorer's module only when the scorer is used, so that help texts can name the scorers without loading Polars.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from tasks.errors import ConfigError

if TYPE_CHECKING:
    from tasks.scoring.score import Scorer

BUILT_IN = {
    "gsm8k": "tasks.scoring.gsm8k_scorer:Gsm8kScorer",
    "math": "tasks.scoring.math_scorer:MathScorer",
}
"""``module:Class`` of each built-in scorer, by name."""

SCORER_CHOICES = f"{', '.join(BUILT_IN)}, package.module:function or path/to/file.py:function"
"""The names that users may give, in words."""


def load_scorer(name: str) -> "Scorer":
    """Return the scorer called ``name``: a built-in one, or a function of the user.

    Raises ConfigError for another name, for ``math`` when Math-Verify is not installed, and for a path from which no
    function can be imported.
    """
    if name in BUILT_IN:
        module, _, class_name = BUILT_IN[name].partition(":")
        scorer: Scorer = getattr(import_module(module), class_name)()
        return scorer
    if ":" in name:
        from tasks.scoring.custom_scorer import CustomScorer

        return CustomScorer.load(name)
    raise ConfigError(f"scorer {name!r} is not known; give {SCORER_CHOICES}")
