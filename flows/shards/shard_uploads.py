"""Uploads of finished shards beside generation, which neither waits for the store nor ends for it."""

from collections import deque
from collections.abc import Callable
from functools import partial

from prefect.futures import PrefectFuture

from flows.shards.in_flight import InFlight
from flows.shards.steps import upload_shard
from tasks.errors import HarvestError
from tasks.plan.run_plan import RunPlan
from tasks.plan.shards import Shard

MOST = 4
"""Uploads in flight: one that outlasts an outage holds a thread of the flow's, and generation needs threads too."""


Submit = Callable[[Shard], PrefectFuture[None]]


def submit_to(plan: RunPlan, url: str | None) -> Submit | None:
    """What submits a shard's upload to ``url``, if there is one."""
    return None if url is None else lambda shard: upload_shard.submit(plan, shard, url)


class ShardUploads:
    """Uploads shards as they come, by ``submit``; does nothing without.

    ``warn`` is told of what an outage leaves for the end of the run, where the upload stage sends whatever is missing.
    """

    def __init__(self, in_flight: InFlight, submit: Submit | None, warn: Callable[[str], None]) -> None:
        self._in_flight = in_flight
        self._submit = submit
        self._warn = warn
        self._waiting: deque[Shard] = deque()
        self._under_way = 0
        self._told: str | None = None

    def add(self, shard: Shard) -> None:
        if self._submit is None:
            return
        self._waiting.append(shard)
        self._begin(self._submit)

    def _begin(self, submit: Submit) -> None:
        while self._waiting and self._under_way < MOST:
            shard = self._waiting.popleft()
            self._under_way += 1
            self._in_flight.watch(submit(shard), partial(self._uploaded, submit), let_pass=partial(self._leave, shard))

    def _uploaded(self, submit: Submit, _: object) -> None:
        self._under_way -= 1
        self._told = None
        self._begin(submit)

    def _leave(self, shard: Shard, error: HarvestError) -> None:
        self._under_way -= 1
        # those that wait would each wait as long for the same outage
        self._tell([shard, *self._waiting], str(error))
        self._waiting.clear()

    def _tell(self, left: list[Shard], error: str) -> None:
        names = ", ".join(str(shard.index) for shard in left)
        later = f"shard {names} goes" if len(left) == 1 else f"shards {names} go"
        # uploads in flight fail of one outage one after the other
        reason = "for the same reason" if error == self._told else f"as the upload failed now: {error}"
        self._told = error
        self._warn(f"{later} up at the end of the run, {reason}")
