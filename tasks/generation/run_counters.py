"""Counts what a replica has done for one run. An engine may serve several runs, and each tells only of its own work."""

from dataclasses import dataclass, replace


@dataclass(kw_only=True)
class RunCounters:
    """What was generated for a run. Times are on the monotonic clock of the machine that generates."""

    rollouts: int = 0
    """Finished ones, error rows included."""
    tokens: int = 0
    """Tokens of finished completions."""
    first_admitted_at: float | None = None
    last_finished_at: float | None = None

    def __add__(self, other: "RunCounters") -> "RunCounters":
        admitted = [counters.first_admitted_at for counters in (self, other) if counters.first_admitted_at is not None]
        finished = [counters.last_finished_at for counters in (self, other) if counters.last_finished_at is not None]
        return RunCounters(
            rollouts=self.rollouts + other.rollouts,
            tokens=self.tokens + other.tokens,
            first_admitted_at=min(admitted, default=None),
            last_finished_at=max(finished, default=None),
        )

    def shifted(self, seconds: float) -> "RunCounters":
        """Return the counters with their times on a clock that is ``seconds`` ahead."""

        def shift(time: float | None) -> float | None:
            return None if time is None else time + seconds

        first, last = shift(self.first_admitted_at), shift(self.last_finished_at)
        return replace(self, first_admitted_at=first, last_finished_at=last)
