"""What is tried after an engine failed: a smaller batch, the same settings again, or nothing more."""

import datetime
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tasks.errors import EngineError, EngineStartError, HarvestError, MemoryKind, OutOfMemory
from tasks.generation.oom_ladder import Rung, build_ladder
from tasks.generation.rung_state import RungChange, RungState
from tasks.plan.run_plan import RunPlan

_LAST_REMEDY: dict[MemoryKind, str] = {
    "device": "Use a smaller max_model_len, a larger tensor_parallel_size, or a device with more memory",
    "host": "Give the node or its container more memory, or use a smaller model or max_model_len",
}
_BEGIN_AGAIN = ". The same command begins at the last rung; with --forget-oom-rung it begins at the full batch"


@dataclass(frozen=True, kw_only=True)
class PoolEvent:
    """Something that a person watching the run wants to know; ``kind`` is one of: started, resumed, oom, restarted."""

    kind: str
    message: str
    details: dict[str, Any]


@dataclass(kw_only=True)
class RestartBudget:
    """Bounds restarts with the same settings: a delay that doubles, and an end when no completion came in between."""

    most: int = 5
    first_delay_s: float = 1.0
    failures: int = field(default=0, init=False)

    def progressed(self) -> None:
        self.failures = 0

    def failed(self, *, more: int = 0) -> float | None:
        """Seconds to wait before the next start, or None when the budget, with ``more`` restarts, is spent."""
        self.failures += 1
        if self.failures > self.most + more:
            return None
        return min(30.0, self.first_delay_s * 2.0 ** (self.failures - 1))


class Recovery:
    """Where the run stands on the OOM ladder, and the judgement on each failure."""

    def __init__(self, plan: RunPlan, state: RungState, tell: Callable[[PoolEvent], None]) -> None:
        self._ladder = build_ladder(plan.profile, plan.rollouts_per_question)
        self._rollouts_per_question = plan.rollouts_per_question
        self._state = state
        self._tell = tell
        self.num_failures = 0

    @property
    def rung(self) -> Rung:
        return self._ladder[min(self._state.rung, len(self._ladder) - 1)]

    @property
    def changes(self) -> list[RungChange]:
        return list(self._state.changes)

    def after(
        self,
        error: HarvestError,
        *,
        replica: int,
        rung: int,
        budget: RestartBudget,
        started_before: bool,
        has_suspects: bool = False,
    ) -> tuple[HarvestError, float]:
        """The error to raise to those who wait, and the seconds until the next start.

        The error is retryable exactly when another attempt will be made. ``rung`` is the one that failed.
        ``has_suspects`` says that requests were in flight, of which one may be to blame.
        """
        if isinstance(error, EngineStartError) and started_before:
            error.retryable = True
        if not isinstance(error, EngineError) or not error.retryable:
            return error, 0.0
        self.num_failures += 1
        if isinstance(error, OutOfMemory):
            return self._step_down(error, replica, rung), 0.0
        return self._again(error, replica, budget, has_suspects=has_suspects)

    def _again(
        self, error: EngineError, replica: int, budget: RestartBudget, *, has_suspects: bool
    ) -> tuple[HarvestError, float]:
        # a question that kills the engine under every arm is found out with one restart for each of its rollouts
        delay = budget.failed(more=self._rollouts_per_question if has_suspects else 0)
        if delay is None:
            final = type(error)(
                f"{error.reason}; {budget.failures - 1} restarts in a row brought no rollout",
                log_path=error.log_path,
                remedy="Read the log; then run the same command, which resumes",
            )
            final.retryable = False
            return final, 0.0
        message = f"replica {replica} is restarted in {delay:g} s: {error}"
        self._tell(PoolEvent(kind="restarted", message=message, details=_where(error, replica)))
        return error, delay

    def _step_down(self, error: OutOfMemory, replica: int, failed_rung: int) -> HarvestError:
        if failed_rung < self.rung.index:
            return error  # another replica's failure has already halved the batch
        if failed_rung + 1 >= len(self._ladder):
            tried = ", ".join(str(rung.question_batch_size) for rung in self._ladder)
            return OutOfMemory(
                f"memory ran out at every rung of the ladder (question batches {tried}, the last one eager): "
                f"{error.reason}",
                kind=error.kind,
                phase=error.phase,
                curable=False,
                log_path=error.log_path,
                remedy=_LAST_REMEDY[error.kind] + (_BEGIN_AGAIN if failed_rung else ""),
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
        self._tell(PoolEvent(kind="oom", message=message, details=_where(error, replica) | self.rung.describe()))
        return error


def _where(error: EngineError, replica: int) -> dict[str, Any]:
    return {"replica": replica} | ({"log_path": str(error.log_path)} if error.log_path else {})
