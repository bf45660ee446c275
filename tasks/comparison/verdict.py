"""The verdicts of a comparison, and the largest reward difference that an equivalence allows.

They stand in a module without imports, so that the options of a command can name them without loading Polars.
"""

from typing import Literal

Tier = Literal["bitwise", "numerical", "statistical"]
Verdict = Literal["bitwise", "numerical", "statistical", "inconclusive", "incomplete", "different"]
TIERS: tuple[Tier, ...] = ("bitwise", "numerical", "statistical")
"""The strongest tier comes first. A tier meets a requirement for itself and for every later tier."""

DEFAULT_EPSILON = 0.02
"""Default of ``epsilon``: the largest difference of the mean reward that counts as none. Choose it before the runs."""
