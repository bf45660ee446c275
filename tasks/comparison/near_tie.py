"""Decides whether floating point explains that two runs chose different tokens after the same text.

Rounding alone can flip a token, and a comparison must tell this from a real difference. Both runs see the same prefix
and, with seeded requests, the same random numbers. Greedy decoding takes the token with the largest logprob. vLLM's
seeded sampler takes the token with the largest logprob + noise, where the noise of a token depends only on the
request's seed and the position (an exponential race, which is the Gumbel-max trick). Let the baseline choose ``a`` and
the candidate ``b``. Then in either case

    logprob_candidate(a) - logprob_candidate(b) <= noise(b) - noise(a) <= logprob_baseline(a) - logprob_baseline(b)

so the *gap*, the right side minus the left, is the distance that the log-odds of the two contested tokens moved between
the runs. Rounding moves them a little, and a token flips only when the log-odds cross the threshold. So the gap of a
flip that rounding explains is positive and at most the near-tie limit. For greedy decoding the gap is an upper bound of
the lead that either run gave its own token. A negative gap cannot come from the same random numbers. A contested token
outside the stored top-k has at most the k-th logprob, so the gap is then a lower bound.

Limits are in nats at temperature 1, and are divided by the temperature of a sampled rollout. The defaults follow from
the spacing of logits: a bfloat16 logit in [16, 32) has a spacing of 2^-3 (8 bits of significand), and two contested
logits that each move by two spacings move by 0.5 against each other. float16 has three bits more, and float32 sixteen.
``python -m tests.bench.bench_rounding`` measured how far the log-odds among the five most likely tokens moved between
prefill and decode, in a random model of 8 layers with logits up to 23: at most 0.31 (bfloat16, 99% below 0.25), 0.039
(float16) and 2e-5 (float32). The float32 limit has more room, as GPUs may multiply float32 in fewer bits. Measure a
NoiseFloor where the limit matters.
"""

from collections.abc import Set
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

DivergenceKind = Literal[
    "near_tie",
    "wide",
    "redrawn",
    "unseen",
    "no_top_logprobs",
    "shifted",
    "cut",
    "inconsistent",
    "settings",
    "text",
    "reward",
]
"""The cause of a divergence:

- near_tie: floating point explains it;
- wide: the gap is above the near-tie limit, but rounding is not ruled out;
- redrawn: the distributions are close, but the sampler used other random numbers;
- unseen: the stored logprobs are close, but a contested token is outside the stored top-k;
- no_top_logprobs: a run stores no top logprobs, so the cause is unknown;
- shifted (real): the log-odds, or the logprob of a token in both top-k, moved by more than REAL_FACTOR limits;
- cut (real): one completion ends where the other goes on;
- inconsistent (real): the stored logprobs do not belong to the stored tokens;
- settings (real): the rollouts state different temperatures, top_p or seeds, although the configurations agree;
- text, reward (real): the tokens are the same, but the text differs, or the reward of the same text differs.
"""

REAL_KINDS: tuple[DivergenceKind, ...] = ("settings", "inconsistent", "text", "reward", "cut", "shifted")
REAL_FACTOR = 2.0
"""Rounding is ruled out when the log-odds move by more than this many near-tie limits."""

DEFAULT_LIMITS = {"float32": 1e-3, "float16": 2**-4, "bfloat16": 2**-1}
"""Near-tie limit by dtype, in nats at temperature 1."""

RESOLUTION = 2e-5
"""Gaps below this count as zero, in nats: four float32 logprobs down to -20 carry that much rounding."""
_STORED_TOLERANCE = 1e-3
_ENDED = -1

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]


class Choice(NamedTuple):
    """The token that one run chose at the contested position of each of n rollouts."""

    token: Integers
    """(n,) token ids; -1 where the completion ends before the position."""
    logprob: Floats
    """(n,) logprobs of ``token`` in nats; NaN where the run stores none."""
    top_ids: Integers
    """(n, k) token ids of the stored top-k; -1 where fewer are stored."""
    top_logprobs: Floats
    """(n, k) logprobs of ``top_ids`` in nats; -inf where fewer are stored."""


class Classification(NamedTuple):
    """The cause of each of n divergences."""

    kind: npt.NDArray[np.object_]
    """(n,) values of DivergenceKind."""
    gap: Floats
    """(n,) in nats; NaN when it is unknown, and a lower bound for ``unseen``."""
    drift: Floats
    """(n,) in nats; NaN when it is unknown."""


def default_limit(dtypes: Set[str]) -> float:
    """The largest default near-tie limit of ``dtypes``, in nats; an unknown dtype has the limit of bfloat16."""
    return max(DEFAULT_LIMITS.get(dtype.removeprefix("torch."), DEFAULT_LIMITS["bfloat16"]) for dtype in dtypes)


def classify(
    baseline: Choice, candidate: Choice, *, greedy: Booleans, limit: Floats, real_limit: Floats
) -> Classification:
    """The causes of n divergences. ``greedy``, ``limit`` and ``real_limit`` have shape (n,); limits are in nats."""
    stored = [
        np.isfinite(choice.top_logprobs).any(axis=1) & ~np.isnan(choice.logprob) for choice in (baseline, candidate)
    ]
    top_known = stored[0] & stored[1]
    base_lead, base_seen = _lead(baseline, candidate.token)
    cand_lead, cand_seen = _lead(candidate, baseline.token)
    gap = np.where(top_known, base_lead + cand_lead, np.nan)
    drift = np.where(top_known, _drift(baseline, candidate), np.nan)
    with np.errstate(invalid="ignore"):
        not_largest = _below_largest(baseline) | _below_largest(candidate)
        conditions: list[tuple[DivergenceKind, Any]] = [
            ("cut", (baseline.token == _ENDED) | (candidate.token == _ENDED)),
            ("inconsistent", _inconsistent(baseline) | _inconsistent(candidate)),
            ("no_top_logprobs", ~top_known),
            ("inconsistent", greedy & not_largest),
            ("shifted", (gap > real_limit) | (drift > real_limit)),
            ("unseen", ~(base_seen & cand_seen)),
            ("redrawn", ~greedy & (gap < -RESOLUTION)),
            ("wide", gap > limit),
        ]
    kind = np.full(gap.shape, "near_tie", dtype=object)
    for name, holds in reversed(conditions):
        kind[holds] = name
    return Classification(kind, gap, drift)


def _lead(choice: Choice, other: Integers) -> tuple[Floats, Booleans]:
    """The least lead of the run's own token over ``other``, in nats, and whether ``other`` is among its top-k."""
    match = (choice.top_ids == other[:, None]) & np.isfinite(choice.top_logprobs)
    seen = match.any(axis=1)
    finite = np.where(np.isfinite(choice.top_logprobs), choice.top_logprobs, np.inf)
    weakest = finite.min(axis=1, initial=np.inf)
    listed = np.where(match, choice.top_logprobs, -np.inf).max(axis=1, initial=-np.inf)
    with np.errstate(invalid="ignore"):
        return choice.logprob - np.where(seen, listed, weakest), seen


def _drift(baseline: Choice, candidate: Choice) -> Floats:
    """Largest difference of a logprob between the runs, over the tokens in both top-k, in nats; 0 without any."""
    largest = np.zeros(baseline.token.shape)
    for column in range(baseline.top_ids.shape[1]):
        token, logprob = baseline.top_ids[:, column, None], baseline.top_logprobs[:, column, None]
        shared = (candidate.top_ids == token) & np.isfinite(candidate.top_logprobs) & np.isfinite(logprob)
        moved = np.abs(np.where(shared, candidate.top_logprobs, 0.0) - np.where(shared, logprob, 0.0))
        largest = np.maximum(largest, moved.max(axis=1, initial=0.0))
    return largest


def _below_largest(choice: Choice) -> Booleans:
    return np.asarray(choice.logprob < choice.top_logprobs.max(axis=1, initial=-np.inf) - _STORED_TOLERANCE)


def _inconsistent(choice: Choice) -> Booleans:
    """Whether the logprob of the run's own token contradicts the stored top-k, per row."""
    finite = np.isfinite(choice.top_logprobs)
    own = (choice.top_ids == choice.token[:, None]) & finite
    listed = own.any(axis=1)
    own_logprob = np.where(own, choice.top_logprobs, -np.inf).max(axis=1, initial=-np.inf)
    weakest = np.where(finite, choice.top_logprobs, np.inf).min(axis=1, initial=np.inf)
    with np.errstate(invalid="ignore"):
        differs = listed & (np.abs(choice.logprob - own_logprob) > _STORED_TOLERANCE)
        too_likely = ~listed & finite.any(axis=1) & (choice.logprob > weakest + _STORED_TOLERANCE)
    return np.asarray(differs | too_likely)
