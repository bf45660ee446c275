"""Calls a scorer of the user for all rows of a shard, and says what became of each.

A call that fails costs its row alone. So a call for several rows that fails is made again for each of them, and so is
what was under way when a process had to be ended. What fails is counted as the user's, except that what a
process was killed at from outside is tried once more.
"""

import json
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tasks.plain_text import one_line
from tasks.scoring.judge_cache import JudgeCache
from tasks.scoring.scorer_calls import BATCH_ROWS, batch_arguments, is_batch
from tasks.scoring.scorer_child import backoff
from tasks.scoring.scorer_process import Described, Lender
from tasks.time_limits import time_limit

TRIAL_ROWS = 16
"""When all of so many rows fail, taken evenly from the shard, the scorer is at fault."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A result as ``scorer_child`` sends it, or an error, with the line of the user's code that raised it."""

    result: dict[str, Any] | None = None
    error: str = ""
    trace: str | None = None


@dataclass(frozen=True)
class _Unit:
    rows: tuple[int, ...]
    alone: bool = False
    """Nothing else is called meanwhile, so that it is known whose failure it is."""


class AllFailed(Exception):
    """The trial rows failed, or all rows; ``first`` is the first of them, and ``tried`` their number."""

    def __init__(self, first: int, tried: int, outcome: Outcome) -> None:
        super().__init__(outcome.error)
        self.first, self.tried, self.outcome = first, tried, outcome


class ScorerRun:
    """One pass over ``rows``, of ``row_arguments``."""

    def __init__(
        self,
        lender: Lender,
        described: Described,
        rows: Sequence[dict[str, Any]],
        cache: JudgeCache | None,
        *,
        may_fail: bool = False,
    ) -> None:
        """With ``may_fail`` all rows may fail."""
        self._may_fail = may_fail
        self._lender, self._described, self._rows = lender, described, rows
        self._cache = cache if described.form in ("row", "verl", "positional") else None
        count = min(TRIAL_ROWS, len(rows))
        self._trial = [index * len(rows) // count for index in range(count)]
        self._outcomes: dict[int, Outcome] = {}
        self._queue = deque(self._units())
        self._flight: dict[int, tuple[_Unit, float]] = {}
        self._again: set[tuple[int, ...]] = set()
        self._number = 0

    def outcomes(self) -> list[Outcome]:
        """Call the function for every row. Raises AllFailed, as soon as that is known."""
        while self._queue or self._flight:
            self._send()
            if self._flight:
                self._take()
            if not self._may_fail:
                self._check()
        return [self._outcomes[index] for index in range(len(self._rows))]

    def _units(self) -> list[_Unit]:
        rest = [index for index in range(len(self._rows)) if index not in set(self._trial)]
        size = BATCH_ROWS if is_batch(self._described) else 1
        batches = [part[start : start + size] for part in (self._trial, rest) for start in range(0, len(part), size)]
        return [_Unit(tuple(batch)) for batch in batches]

    def _send(self) -> None:
        most = int(self._described.SCORER_CONCURRENCY) if self._described.is_async else 1
        while self._queue and len(self._flight) < most:
            unit = self._queue[0]
            if self._flight and (unit.alone or any(other.alone for other, _ in self._flight.values())):
                return
            self._queue.popleft()
            if self._cache is not None and (known := self._cache.find(self._rows[unit.rows[0]])) is not None:
                self._outcomes[unit.rows[0]] = Outcome(result=known)
                continue
            self._number += 1
            rows = [self._rows[index] for index in unit.rows]
            batch = is_batch(self._described)
            process = self._lender.process()
            self._flight[self._number] = unit, time.monotonic() + self._limit()
            process.send(
                {
                    "id": self._number,
                    "arguments": batch_arguments(self._described, rows) if batch else rows[0],
                    "rows": len(rows) if batch else None,
                    "timeout": time_limit(self._described.SCORER_TIMEOUT),
                    "retries": int(self._described.SCORER_RETRIES),
                }
            )

    def _limit(self) -> float:
        """Seconds after which a process is ended."""
        limit = time_limit(self._described.SCORER_TIMEOUT)
        if self._described.is_async:
            # the process itself ends calls that only wait, and makes them again
            retries = int(self._described.SCORER_RETRIES)
            return limit * (retries + 2) + sum(backoff(attempt) for attempt in range(retries))
        return limit

    def _take(self) -> None:
        process = self._lender.process()
        first = min(deadline for _, deadline in self._flight.values())
        if not process.connection.poll(max(0.0, first - time.monotonic())):
            if time.monotonic() >= first:
                self._end(f"it took more than {time_limit(self._described.SCORER_TIMEOUT):g} s")
            return
        try:
            message = _parsed(process.connection.recv_bytes())
            unit, _ = self._flight[message["id"]]
        except (EOFError, OSError):
            killed = process.was_killed
            self._end(f"it ended its process ({process.how_it_ended()})", again=killed)
            return
        except (ValueError, KeyError, TypeError):
            self._end("it wrote to a file descriptor that is not its own")
            return
        del self._flight[message["id"]]
        process.is_doubtful |= bool(message.get("late"))
        if "results" in message:
            for index, result in zip(unit.rows, message["results"], strict=True):
                self._outcomes[index] = Outcome(result=result)
                if self._cache is not None:
                    self._cache.store(self._rows[index], result)
        elif len(unit.rows) > 1:
            self._queue.extendleft(_Unit((index,)) for index in reversed(unit.rows))
        else:
            self._outcomes[unit.rows[0]] = Outcome(error=one_line(message["error"], 500), trace=message["trace"])

    def _end(self, why: str, *, again: bool = False) -> None:
        self._lender.end()
        rows = [index for unit, _ in self._flight.values() for index in unit.rows]
        self._flight.clear()
        if len(rows) > 1 or (again and tuple(rows) not in self._again):
            self._again.add(tuple(rows))
            self._queue.extendleft(_Unit((index,), alone=True) for index in reversed(rows))
        else:
            self._outcomes[rows[0]] = Outcome(error=why)

    def _check(self) -> None:
        for rows in (self._trial, range(len(self._rows))):
            found = [self._outcomes.get(index) for index in rows]
            if found and all(outcome is not None and outcome.result is None for outcome in found):
                first = next(outcome for outcome in found if outcome is not None)
                raise AllFailed(rows[0], len(found), first)
            if rows is self._trial and len(self._outcomes) < len(self._rows):
                return


def _parsed(data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(data)
    return found
