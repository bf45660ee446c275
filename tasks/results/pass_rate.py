"""The pass rate of a group whose samples were drawn until a stopping rule held, and its 95% interval.

Under such a rule the share of right samples is biased: a group that stops at its second right answer stops while it is
lucky. The estimate here is unbiased. It is the chance that the first sample was right, given where the group stopped:
of the orders of right and wrong samples that lead there without an earlier stop, the share that begins with a right one
(Girshick, Mosteller & Savage 1946, Ann. Math. Stat. 17:13). With waves of one sample and the rule ``correct:K`` it is
(K - 1) / (N - 1) (Haldane 1945, Biometrika 33:222). Where no wave but the last can end a group it is the share.

A single estimate may be 0 although a sample was right: the samples after the first wave of ``mixed`` say when it
stopped, and nothing of the first one. It is made for means over many groups.

The interval is that of all pass rates that an exact test at the level 5% does not reject (Jennison & Turnbull 1983,
Technometrics 25:49). Outcomes are ordered by the share of right samples, which is the maximum likelihood estimate
(Emerson & Fleming 1990, Biometrika 77:875). The outcome itself counts half on either side, the mid-p (Lancaster 1961,
J. Am. Stat. Assoc. 56:223). Without it intervals would cover more than 95%.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.plan.stopping_rule import AT_MAXIMUM, StoppingRule

_Floats = npt.NDArray[np.float64]
_TAIL = 0.025
_DIGITS = 12
"""Rounding keeps equal estimates equal."""
_HALVINGS = 40
_KEPT_PLANS = 8
"""Of 1,000 samples in waves of one, a plan takes megabytes, and each group that lacks a reward may have its own."""


@dataclass(frozen=True, kw_only=True)
class WavePlan:
    """When a group's counts are looked at, and by which rule."""

    ends: tuple[int, ...]
    """Samples with a reward after each wave, rising: samples without one are left out, as if never drawn."""
    rule: StoppingRule | None = None
    """None: nothing stops a group before its last wave."""


@dataclass(frozen=True, kw_only=True)
class _Wave:
    """The states after a wave, by the number of right samples."""

    share: _Floats
    """Of the orders of so many right and wrong samples, the share without an earlier stop."""
    first_right: _Floats
    """The share of those and that begin with a right one."""
    stops: npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class _Outcomes:
    """All states in which a group can stop, in the order of their shares of right samples."""

    log_orders: _Floats
    """Logarithm of the number of orders that lead there."""
    samples: _Floats
    right: _Floats


def pass_rate(plan: WavePlan, samples: int, right: int) -> float:
    """Return the unbiased estimate for a group with ``right`` right ones of ``samples``, the end of a wave."""
    wave = _waves(plan)[plan.ends.index(samples)]
    # a group that cannot be there under the plan has no other estimate than its share
    if wave.share[right] <= 0.0:
        return right / samples
    return round(float(wave.first_right[right] / wave.share[right]), _DIGITS)


def pass_rate_interval(plan: WavePlan, samples: int, right: int) -> tuple[float, float]:
    """Return the 95% interval of the pass rate of a group that stopped there; that of a fixed number if it did not."""
    outcomes = _outcomes(plan)
    place = np.flatnonzero((outcomes.samples == samples) & (outcomes.right == right))
    if not len(place):
        return pass_rate_interval(WavePlan(ends=(samples,)), samples, right)
    return _interval(plan, int(place[0]))


def stop_reason(plan: WavePlan, samples: int, right: int) -> str | None:
    """Return why a group of a plan with a rule stops there: a condition or AT_MAXIMUM; None: it goes on."""
    reason = _reasons(plan.rule, samples)[right] if plan.rule else None
    return reason or (AT_MAXIMUM if samples == plan.ends[-1] else None)


@functools.lru_cache(maxsize=4096)
def _reasons(rule: StoppingRule, samples: int) -> tuple[str | None, ...]:
    return tuple(rule.holds(right, samples - right) for right in range(samples + 1))


@functools.lru_cache(maxsize=4096)
def _stops(rule: StoppingRule, samples: int) -> npt.NDArray[np.bool_]:
    return np.array([reason is not None for reason in _reasons(rule, samples)])


@functools.lru_cache(maxsize=_KEPT_PLANS)
def _waves(plan: WavePlan) -> tuple[_Wave, ...]:
    waves: list[_Wave] = []
    before = 0
    for samples in plan.ends:
        if not waves:
            # every order of the first wave gets to its end
            share, first = np.ones(samples + 1), np.arange(samples + 1) / samples
        else:
            share, first = _drawn(waves[-1], before, samples)
        is_last = plan.rule is None or samples == plan.ends[-1]
        stops = np.ones(samples + 1, np.bool_) if is_last else _stops(plan.rule, samples)
        waves.append(_Wave(share=share, first_right=first, stops=stops))
        before = samples
    return tuple(waves)


def _drawn(wave: _Wave, before: int, samples: int) -> tuple[_Floats, _Floats]:
    """Return both shares after the groups of ``wave`` that go on have ``samples``."""
    share, first = np.zeros(samples + 1), np.zeros(samples + 1)
    more, log_orders = samples - before, _log_orders(samples)
    for right in range(more + 1):
        # of the orders of all samples, the share that has so many right ones in this wave: hypergeometric
        reached = slice(right, right + before + 1)
        weight = np.exp(_log_orders(more)[right] + _log_orders(before) - log_orders[reached])
        weight = np.where(wave.stops, 0.0, weight)
        share[reached] += weight * wave.share
        first[reached] += weight * wave.first_right
    return share, first


@functools.lru_cache(maxsize=4096)
def _log_orders(samples: int) -> _Floats:
    """Return the logarithm of the number of orders of ``samples``, by how many are right."""
    logs = np.array([math.lgamma(count + 1) for count in range(samples + 1)])
    result: _Floats = logs[-1] - logs - logs[::-1]
    return result


@functools.lru_cache(maxsize=_KEPT_PLANS)
def _outcomes(plan: WavePlan) -> _Outcomes:
    found = []
    for count, wave in zip(plan.ends, _waves(plan), strict=True):
        reached = np.flatnonzero(wave.stops & (wave.share > 0.0))
        logs = np.log(wave.share[reached]) + _log_orders(count)[reached]
        found.append((logs, np.full(len(reached), float(count)), reached.astype(np.float64)))
    log_orders, samples, right = map(np.concatenate, zip(*found, strict=True))
    # of two that are all wrong the longer one says more
    order = np.lexsort((right - samples / 2, right / samples))
    return _Outcomes(log_orders=log_orders[order], samples=samples[order], right=right[order])


@functools.lru_cache(maxsize=1024)
def _interval(plan: WavePlan, place: int) -> tuple[float, float]:
    outcomes = _outcomes(plan)

    def beyond(rate: float, side: slice) -> float:
        right, wrong = outcomes.right[side], outcomes.samples[side] - outcomes.right[side]
        chances = np.exp(outcomes.log_orders[side] + right * math.log(rate) + wrong * math.log1p(-rate))
        own = chances[0 if side is above else -1]
        return float(chances.sum() - own / 2)

    above, below = slice(place, None), slice(0, place + 1)
    low = _crossing(lambda rate: beyond(rate, above) > _TAIL)
    high = _crossing(lambda rate: beyond(rate, below) <= _TAIL)
    return low, high


def _crossing(is_above: Callable[[float], bool]) -> float:
    """Return the rate from which on ``is_above`` holds; 0 where it always does and 1 where it never does."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if is_above(middle) else (middle, high)
    return round((low + high) / 2, 9)
