"""Computes the statistics of a benchmark: throughput over the repeats, speed-ups, and projected times."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

PROJECTED_QUESTIONS = (100, 500, 7473)
"""Numbers of questions with a projected time. The last is the size of GSM8K's training split."""
PROJECTION_ASSUMPTION = (
    "one engine start, then the sequences/s measured here: the same mix of prompt and completion lengths, and no "
    "failures"
)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One contestant in one repeat."""

    contestant: str
    repeat: int
    run_dir: str
    """Its run, or the folder of a contestant that stores none."""
    seconds: float
    """Time from the first admitted to the last finished rollout."""
    start_seconds: float
    """Time to load the engine, which is not part of ``seconds``."""
    process_seconds: float
    """Time from spawn to exit of its process."""
    rollouts: int
    tokens: int
    """Completion tokens."""
    gpus: int = 1
    """GPUs at work; 1 on a CPU."""
    arithmetic_share: float | None = None
    """Share (of 1) of the cards' dense peak, by ``tasks.node.arithmetic``. None when model or card are not known."""
    utilization_percent: float | None = None
    max_memory_gib: float | None = None

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds

    @property
    def tokens_per_s_and_gpu(self) -> float:
        return self.tokens_per_s / self.gpus

    @property
    def sequences_per_s(self) -> float:
        return self.rollouts / self.seconds


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One contestant that failed in one repeat."""

    contestant: str
    repeat: int
    reason: str
    """With the path of its log."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Mean, smallest and largest value over the repeats."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(mean=fmean(values), low=min(values), high=max(values))


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One contestant over all repeats."""

    contestant: str
    seconds: Spread
    start_seconds: Spread
    process_seconds: Spread
    sequences_per_s: Spread
    tokens_per_s: Spread
    speedup: Spread | None
    """The subject's tokens/s per GPU divided by this contestant's, repeat by repeat; None for the subject itself."""
    gpus: int
    arithmetic_share: float | None
    utilization_percent: float | None
    max_memory_gib: float | None
    projection: Mapping[int, float]
    """Projected seconds by number of questions."""


def standings(measurements: Sequence[Measurement], *, subject: str, rollouts_per_question: int) -> tuple[Standing, ...]:
    """Return one Standing per contestant, in the order of their first measurements."""
    contestants = dict.fromkeys(item.contestant for item in measurements)
    own = {item.repeat: item for item in measurements if item.contestant == subject}
    table = []
    for contestant in contestants:
        items = [item for item in measurements if item.contestant == contestant]
        ratios = [
            own[item.repeat].tokens_per_s_and_gpu / item.tokens_per_s_and_gpu for item in items if item.repeat in own
        ]
        rate = Spread.of([item.sequences_per_s for item in items])
        start = Spread.of([item.start_seconds for item in items])
        table.append(
            Standing(
                contestant=contestant,
                seconds=Spread.of([item.seconds for item in items]),
                start_seconds=start,
                process_seconds=Spread.of([item.process_seconds for item in items]),
                sequences_per_s=rate,
                tokens_per_s=Spread.of([item.tokens_per_s for item in items]),
                speedup=Spread.of(ratios) if ratios and contestant != subject else None,
                gpus=items[0].gpus,
                arithmetic_share=_mean([item.arithmetic_share for item in items]),
                utilization_percent=_mean([item.utilization_percent for item in items]),
                max_memory_gib=max((item.max_memory_gib for item in items if item.max_memory_gib), default=None),
                projection={
                    questions: start.mean + questions * rollouts_per_question / rate.mean
                    for questions in PROJECTED_QUESTIONS
                },
            )
        )
    return tuple(table)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
