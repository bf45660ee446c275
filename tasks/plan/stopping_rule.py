"""When a group of rollouts needs no more samples: a rule over its counts, looked at after each wave of samples.

A group is the rollouts of one question under one arm. Whether it stops depends on its own counts at the ends of waves
alone, so that which rollouts a run has depends on its configuration and its seeds.
"""

import re
from dataclasses import dataclass
from typing import Literal

from profiles.settings import MOST_SAMPLES
from tasks.distributions import wilson_bounds
from tasks.errors import ConfigError

AT_MAXIMUM = "max"
"""Why a group stopped for which no condition holds: it has as many samples as a group may have."""

Kind = Literal["correct", "mixed", "width"]
_EXAMPLES = (
    "correct:K (K right rollouts), mixed or mixed:K (K right and K wrong ones) and width:W (the 95% interval of the "
    "pass rate is narrower than W, between 0 and 1), several joined by commas, such as correct:4 or mixed,width:0.3"
)


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One condition of a rule."""

    kind: Kind
    count: int = 1
    """K of ``correct`` and ``mixed``."""
    width: float = 0.0
    """W of ``width``."""

    def __str__(self) -> str:
        if self.kind == "width":
            return f"width:{self.width!r}"
        return "mixed" if self.kind == "mixed" and self.count == 1 else f"{self.kind}:{self.count}"

    def holds(self, right: int, wrong: int) -> bool:
        if self.kind == "correct":
            return right >= self.count
        if self.kind == "mixed":
            return min(right, wrong) >= self.count
        if not right + wrong:
            return False
        low, high = wilson_bounds(right, right + wrong)
        return high - low < self.width


@dataclass(frozen=True)
class StoppingRule:
    """Conditions; a group stops at the end of the first wave at which one of them holds."""

    conditions: tuple[Condition, ...]

    @classmethod
    def parse(cls, text: str) -> "StoppingRule":
        """Read a rule such as "correct:4" or "mixed,width:0.3". Raises ConfigError."""
        conditions = tuple(_condition(part.strip(), text) for part in text.split(","))
        kinds = [condition.kind for condition in conditions]
        if twice := next((kind for kind in kinds if kinds.count(kind) > 1), None):
            raise ConfigError(f"sample_until is {text!r}, which has {twice} twice. Give each condition once")
        return cls(conditions)

    def __str__(self) -> str:
        """Return the canonical text, from which ``parse`` reads the same rule."""
        return ",".join(map(str, self.conditions))

    def holds(self, right: int, wrong: int) -> str | None:
        """Return the first condition that holds, as its canonical text; None: more samples are needed.

        ``right`` and ``wrong`` count the rollouts with a reward. One without, such as an error row, is neither.
        ``width`` is that of Wilson's 95% interval (1927, J. Am. Stat. Assoc. 22:209) of right / (right + wrong).
        """
        return next((str(condition) for condition in self.conditions if condition.holds(right, wrong)), None)

    def out_of_reach(self, most: int) -> tuple[str, ...]:
        """Return the conditions that hold for no group of up to ``most`` samples."""
        # each condition holds soonest for a group that is all right, or half right
        groups = ((most, 0), (most - most // 2, most // 2))
        return tuple(str(item) for item in self.conditions if not any(item.holds(*group) for group in groups))


def wave_ends(first: int, size: int, most: int) -> tuple[int, ...]:
    """Return how many samples a group has after each wave, such as (4, 8, 12).

    The first wave has ``first`` samples, each later one ``size``; the last one ends at ``most``.
    """
    return (*range(first, most, size), most)


def _condition(part: str, text: str) -> Condition:
    name, colon, value = part.partition(":")
    try:
        if name == "mixed" and not colon:
            return Condition(kind="mixed")
        if name == "correct":
            return Condition(kind="correct", count=_count(value))
        if name == "mixed":
            return Condition(kind="mixed", count=_count(value))
        if name == "width" and 0.0 < (width := float(value)) < 1.0:
            return Condition(kind="width", width=width)
    except ValueError:
        pass
    raise ConfigError(f"sample_until is {text!r}; give {_EXAMPLES}")


def _count(value: str) -> int:
    if not re.fullmatch("[0-9]{1,6}", value) or not 1 <= int(value) <= MOST_SAMPLES:
        raise ValueError
    return int(value)
