"""Multiplies the time limits that tell health from failure by ``HARVEST_TIME_LIMIT_FACTOR``.

Such a limit finds a server that does not start, an engine that stalls, or a node that is silent. Healthy ones take
longer on a slow or crowded machine, so the code passes each of these limits through ``time_limit``. Limits that promise
a quick end, such as that of Ctrl-C, are not multiplied.
"""

import math
import os

from tasks.errors import ConfigError

FACTOR_VARIABLE = "HARVEST_TIME_LIMIT_FACTOR"
"""Environment variable: what each limit that guards health is multiplied by."""


def time_limit(seconds: float) -> float:
    """Return ``seconds`` times the factor. Raises ConfigError if the factor is no number above 0."""
    return seconds * time_limit_factor()


def time_limit_factor() -> float:
    """Return the value of ``HARVEST_TIME_LIMIT_FACTOR``, or 1. Raises ConfigError if it is no number above 0."""
    text = os.environ.get(FACTOR_VARIABLE) or "1"
    try:
        factor = float(text)
    except ValueError:
        factor = math.nan
    if not 0 < factor < math.inf:
        raise ConfigError(
            f"{FACTOR_VARIABLE} is {text!r}; it must be a number above 0, such as 3 for a machine that is three times "
            "slower than usual"
        )
    return factor
