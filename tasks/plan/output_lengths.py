"""Draw completion lengths at random, to benchmark models with random weights, whose own lengths mean nothing."""

import random
from typing import Literal

from pydantic import Field

from profiles.settings import MOST_TOKENS, Settings
from tasks.errors import ConfigError

DEFAULT_SIGMA = 0.8
"""Standard deviation of the logarithm: one completion in six is more than 2.2 times as long as the median one."""


class OutputLengths(Settings):
    """The distribution of completion lengths. A completion has its drawn length; the model's end token is ignored."""

    distribution: Literal["lognormal"] = "lognormal"
    median: int = Field(ge=1, le=MOST_TOKENS)
    """Median completion, in tokens."""
    sigma: float = Field(DEFAULT_SIGMA, ge=0.0, le=3.0)
    """Standard deviation of the logarithm of the length."""

    def draw(self, seed: int, max_tokens: int) -> int:
        """Return the length, from 1 to ``max_tokens`` tokens, of the rollout whose request has ``seed``."""
        # drawn from the request's seed, so that sharding, resume and batch size change no length
        length = self.median * random.Random(seed).lognormvariate(0.0, self.sigma)
        return min(max_tokens, max(1, round(length)))


def parse_lengths(text: str, max_tokens: int) -> OutputLengths:
    """Read "lognormal" (median: a quarter of ``max_tokens``), "lognormal:MEDIAN" or "lognormal:MEDIAN:SIGMA".

    Raises ConfigError.
    """
    name, *numbers = text.split(":")
    try:
        if name != "lognormal" or len(numbers) > 2:
            raise ValueError
        median = int(numbers[0]) if numbers else max(1, max_tokens // 4)
        sigma = float(numbers[1]) if len(numbers) == 2 else DEFAULT_SIGMA
        return OutputLengths(median=median, sigma=sigma)
    except ValueError:
        raise ConfigError(
            f"lengths is {text!r}; give lognormal, lognormal:MEDIAN or lognormal:MEDIAN:SIGMA, with a median of at "
            "least 1 token and a sigma from 0 to 3, such as lognormal:64:0.8"
        ) from None
