"""How long the prompts of a run are, for the memory plan and its advice."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PromptLengths:
    """Prompt lengths in tokens, over sampled questions under every arm."""

    sampled: int
    """Number of sampled questions."""
    mean: float
    """Mean length."""
    p99: int
    """99% of the prompts are at most this long."""
    longest: int
    """Length of the longest prompt."""
    shared_prefix: float
    """Number of tokens that all sampled prompts of an arm start with; the mean over arms."""


def measure_prompts(prompts: Sequence[Sequence[list[int]]]) -> PromptLengths:
    """The lengths of ``prompts``: for each arm, the token ids of its prompts. Raises ValueError without any."""
    lengths = sorted(len(ids) for of_arm in prompts for ids in of_arm)
    if not lengths:
        raise ValueError("there are no prompts to measure; give at least one")
    prefixes = [_common_prefix(of_arm) for of_arm in prompts]
    return PromptLengths(
        sampled=max(map(len, prompts)),
        mean=sum(lengths) / len(lengths),
        p99=lengths[min(len(lengths) - 1, int(0.99 * len(lengths)))],
        longest=lengths[-1],
        shared_prefix=sum(prefixes) / len(prefixes),
    )


def _common_prefix(prompts: Sequence[list[int]]) -> int:
    """Number of tokens that all prompts start with; 0 for fewer than two prompts."""
    if len(prompts) < 2:
        return 0
    # lists are ordered by their first difference, so the extremes differ earliest
    first, last = min(prompts), max(prompts)
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
