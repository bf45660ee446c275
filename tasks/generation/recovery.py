"""Decides what to do after an engine failed: try a smaller batch, restart with the same settings, or end the run."""

import datetime
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tasks.errors import EngineError, EngineStartError, HarvestError, MemoryKind, OutOfMemory
from tasks.generation.oom_ladder import Rung, build_ladder
from tasks.generation.rung_state import RungChange, RungState
from tasks.node.auto_batch import AutoBatch
from tasks.plan.run_plan import RunPlan

_REMEDY_AT_LAST_RUNG: dict[MemoryKind, str] = {
    "device": "Use a smaller max_model_len, a larger tensor_parallel_size, or a device with more memory",
    "host": "Give the node or its container more memory, or use a smaller model or max_model_len",
}
_NEXT_RUN = ". The same command starts at the last rung; with --forget-oom-rung it starts with the full batch"


@dataclass(frozen=True, kw_only=True)
class PoolEvent:
    """An event to show to the user. ``kind`` is started, resumed, oom, restarted, retired, reloaded or renewed."""

    kind: str
    message: str
    details: dict[str, Any]


@dataclass(kw_only=True)
class RestartBudget:
    """Limits restarts with the same settings. A failure doubles the delay; a rollout resets the delay and the count."""

    max_restarts: int = 5
    first_delay_s: float = 1.0
    failures: int = field(default=0, init=False)

    def progressed(self) -> None:
        self.failures = 0

    def failed(self, *, extra: int = 0) -> float | None:
        """Return the seconds until the next start, or None after ``max_restarts`` plus ``extra`` failures in a row."""
        self.failures += 1
        if self.failures > self.max_restarts + extra:
            return None
        return min(30.0, self.first_delay_s * 2.0 ** (self.failures - 1))


class Recovery:
    """Knows the run's rung on the OOM ladder, and decides on each failure."""

    def __init__(
        self, plan: RunPlan, state: RungState, notify: Callable[[PoolEvent], None], auto: AutoBatch | None = None
    ) -> None:
        """``auto`` is the chosen batch of a plan that does not state its own."""
        self._ladder = build_ladder(plan.profile, plan.rollouts_per_question, auto)
        self._rollouts_per_question = plan.rollouts_per_question
        self._state = state
        self._notify = notify
        self.num_failures = 0

    @property
    def full_batch(self) -> int:
        """Questions in flight per replica before any step down."""
        return self._ladder[0].question_batch_size

    @property
    def rung(self) -> Rung:
        return self._ladder[min(self._state.rung, len(self._ladder) - 1)]

    @property
    def changes(self) -> list[RungChange]:
        return list(self._state.changes)

    def decide(
        self,
        error: HarvestError,
        *,
        replica: int,
        rung: int,
        budget: RestartBudget,
        started_before: bool,
        has_suspects: bool = False,
    ) -> tuple[HarvestError, float]:
        """Return the error to raise in the waiting task threads, and the seconds until the replica may start again.

        The error is retryable exactly when another attempt will be made. ``rung`` is the rung that failed.
        ``started_before``: an engine of this session was ready once. ``has_suspects``: requests were in flight, and any
        of them may have caused the failure.
        """
        if isinstance(error, EngineStartError) and started_before:
            error.retryable = True
        if not isinstance(error, EngineError) or not error.retryable:
            return error, 0.0
        self.num_failures += 1
        if isinstance(error, OutOfMemory):
            return self._step_down(error, replica, rung), 0.0
        return self._restart(error, replica, budget, has_suspects=has_suspects)

    def _restart(
        self, error: EngineError, replica: int, budget: RestartBudget, *, has_suspects: bool
    ) -> tuple[HarvestError, float]:
        # a question that crashes the engine under every arm needs one restart for each of its rollouts
        delay = budget.failed(extra=self._rollouts_per_question if has_suspects else 0)
        if delay is None:
            final = type(error)(
                f"{error.reason}; {budget.failures - 1} restarts in a row brought no rollout",
                log_path=error.log_path,
                remedy="Read the log; then run the same command, which resumes",
            )
            final.retryable = False
            return final, 0.0
        message = f"replica {replica} is restarted in {delay:g} s: {error}"
        self._notify(PoolEvent(kind="restarted", message=message, details=_details(error, replica)))
        return error, delay

    def _step_down(self, error: OutOfMemory, replica: int, failed_rung: int) -> HarvestError:
        if failed_rung < self.rung.index:
            return error  # another replica's failure has halved the batch already
        if failed_rung + 1 >= len(self._ladder):
            tried = ", ".join(str(rung.question_batch_size) for rung in self._ladder)
            return OutOfMemory(
                f"memory ran out at every rung of the ladder (question batches {tried}, the last one eager): "
                f"{error.reason}",
                kind=error.kind,
                phase=error.phase,
                curable=False,
                log_path=error.log_path,
                remedy=_REMEDY_AT_LAST_RUNG[error.kind] + (_NEXT_RUN if failed_rung else ""),
            )
        self._state.step_down(
            RungChange(
                at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                from_rung=failed_rung,
                to_rung=failed_rung + 1,
                kind=error.kind,
                phase=error.phase,
                reason=error.reason,
                settings=self._ladder[failed_rung + 1].describe(),
            )
        )
        message = (
            f"out of memory ({error.kind}, {error.phase}): {error.reason}. Question batch is now "
            f"{self.rung.question_batch_size}"
        )
        self._notify(PoolEvent(kind="oom", message=message, details=_details(error, replica) | self.rung.describe()))
        return error


def _details(error: EngineError, replica: int) -> dict[str, Any]:
    return {"replica": replica} | ({"log_path": str(error.log_path)} if error.log_path else {})
