"""Finds the ground truths that a shipped scorer cannot read, so that a run can be refused before it generates anything.

A rollout of such a question would have a null reward and the method ``gold_unparseable``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tasks.scoring.gsm8k_scorer import gold_number
from tasks.scoring.math_answer import math_gold

_READERS: dict[str, Callable[[str], str | None]] = {"gsm8k": gold_number, "math": math_gold}


@dataclass(frozen=True, kw_only=True)
class UnreadableGold:
    """One ground truth that the scorer cannot read."""

    index: int
    """Its place in the list."""
    gold: str
    readable_by: tuple[str, ...]
    """Names of the other shipped scorers that can read it."""


def unreadable_golds(golds: Sequence[str], scorer: str = "gsm8k") -> list[UnreadableGold]:
    """The ``golds`` that ``scorer`` cannot read, in order; none for a scorer of the user, which may read anything.

    Equal golds are read once. It starts no process and needs no Math-Verify.
    """
    read = _READERS.get(scorer)
    if read is None:
        return []
    others = {
        gold: tuple(name for name, other in _READERS.items() if name != scorer and other(gold) is not None)
        for gold in dict.fromkeys(golds)
        if read(gold) is None
    }
    return [
        UnreadableGold(index=index, gold=gold, readable_by=others[gold])
        for index, gold in enumerate(golds)
        if gold in others
    ]
