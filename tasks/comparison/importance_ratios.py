"""What a trainer's importance ratios look like: KL divergence, ratios, effective sample size.

Every token was sampled from the engine's policy q, and the trainer gives it the probability p. Its ratio is r = p / q,
as in an off-policy correction. The estimators of KL(q || p) are those of http://joschu.net/blog/kl-approx.html:
k1 = -log r, unbiased and of either sign, and k3 = (r - 1) - log r, unbiased too and never negative.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

RATIO_BOUNDS = (0.8, 1.2)
"""The ratios that PPO and GRPO do not clip with their usual epsilon of 0.2."""
_LARGEST_LOG_RATIO = 700.0
"""The exponential of more is no number."""

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, kw_only=True)
class RatioStatistics:
    """The ratios of single tokens. Logarithms are natural: divergences are in nats per token."""

    tokens: int
    kl_k1: float | None
    """Mean of k1. None when the trainer gives every token the probability 0."""
    kl_k3: float | None
    """Mean of k3; None likewise."""
    mean_gap: float | None
    """Mean of abs(log r); None likewise."""
    mean_ratio: float
    """1 in expectation, where the trainer's policy has no token that the engine's lacks."""
    ratio_1_percent: float
    """The 1st percentile of the ratios."""
    ratio_99_percent: float
    """The 99th percentile of the ratios."""
    outside: float
    """Share of the tokens whose ratio is outside RATIO_BOUNDS."""
    effective_sample: float
    """Kish's effective sample size (sum r)^2 / sum r^2, as a share of the tokens; 1 when all ratios are equal."""
    impossible: int
    """Tokens of probability 0 under the trainer's policy. Their ratio is 0; they are left out of the divergences."""


@dataclass(frozen=True, kw_only=True)
class SequenceRatios:
    """The ratios of whole completions: products over their tokens, as in sequence-level importance sampling."""

    rollouts: int
    mean_log_ratio: float | None
    """None when no completion is possible under the trainer's policy."""
    log_ratio_1_percent: float | None
    log_ratio_99_percent: float | None
    effective_sample: float
    """Kish's effective sample size, as a share of the rollouts."""


def token_ratios(engine: Array, trainer: Array) -> RatioStatistics:
    """Return the statistics of tokens with these logprobs, of which there is at least one.

    Those of the engine are finite; -inf of the trainer is the probability 0.
    """
    log_ratio = np.minimum(trainer.astype(np.float64) - engine, _LARGEST_LOG_RATIO)
    ratio = np.exp(log_ratio)
    possible = log_ratio[np.isfinite(log_ratio)]
    low, high = np.percentile(ratio, [1, 99])
    return RatioStatistics(
        tokens=len(ratio),
        kl_k1=_mean(-possible),
        # expm1 keeps the digits that exp(x) - 1 loses where x is small
        kl_k3=_mean(np.expm1(possible) - possible),
        mean_gap=_mean(np.abs(possible)),
        mean_ratio=float(ratio.mean()),
        ratio_1_percent=float(low),
        ratio_99_percent=float(high),
        outside=float(((ratio < RATIO_BOUNDS[0]) | (ratio > RATIO_BOUNDS[1])).mean()),
        effective_sample=effective_share(log_ratio),
        impossible=len(ratio) - len(possible),
    )


def sequence_ratios(log_ratios: Sequence[Array]) -> SequenceRatios:
    """Return the statistics of completions, each given by the log ratios of its tokens."""
    sums = np.array([ratios.sum() for ratios in log_ratios], dtype=np.float64)
    possible = sums[np.isfinite(sums)]
    low, high = np.percentile(possible, [1, 99]) if len(possible) else (None, None)
    return SequenceRatios(
        rollouts=len(sums),
        mean_log_ratio=_mean(possible),
        log_ratio_1_percent=None if low is None else float(low),
        log_ratio_99_percent=None if high is None else float(high),
        effective_sample=effective_share(sums),
    )


def effective_share(log_weights: Array) -> float:
    """Return Kish's effective sample size of weights, given by their logarithms, as a share of their number."""
    largest = log_weights.max()
    if not np.isfinite(largest):
        return 0.0
    # the size does not depend on the weights' scale, and the largest may exceed every number
    weights = np.exp(log_weights - largest)
    return float(weights.sum() ** 2 / (weights**2).sum() / len(weights))


def _mean(values: Array) -> float | None:
    return float(values.mean()) if len(values) else None
