"""Which task runs a stage of a run comes after. Prefect's graph draws an arrow from each of them."""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from prefect import State, Task
from prefect.futures import PrefectFuture

from tasks.plan.run_plan import RunPlan

MAX_ARROWS = 1_000
"""A stage after more shards has arrows from the last ones: Prefect refuses events of more than some megabytes."""

Ended = State[Any] | PrefectFuture[Any]
"""A task run that has ended, by its state or its future."""


class StageOrder:
    """The task runs that the next stage of each run comes after."""

    def __init__(self) -> None:
        self._before: dict[str, deque[Ended]] = {}

    def before(self, *plans: RunPlan) -> list[Ended]:
        """Return what a stage of these runs comes after: the ``wait_for`` of its task."""
        return [ended for plan in plans for ended in self._before.get(plan.run_id, ())]

    def follow(self, plan: RunPlan, ended: Iterable[Ended]) -> None:
        """Have the next stages of the run come after ``ended`` instead, if that is anything."""
        self._before[plan.run_id] = deque(ended, MAX_ARROWS) or self._before.get(plan.run_id, deque())

    def call(self, plans: Sequence[RunPlan], task: Task[..., Any], *arguments: Any) -> Any:
        """Call ``task``, a stage of these runs, and return its result. Their next stages come after it."""
        ended: Any = task(*arguments, return_state=True, wait_for=self.before(*plans))
        result = ended.result()
        for plan in plans:
            self.follow(plan, [ended])
        return result
