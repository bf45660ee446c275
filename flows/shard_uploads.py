"""Uploads of finished shards beside generation, which neither waits for the store nor ends for it."""

from collections import deque
from collections.abc import Callable

from flows.in_flight import InFlight
from flows.steps import upload_shard
from tasks.errors import HarvestError
from tasks.run_plan import RunPlan
from tasks.shards import Shard

MOST = 4
"""Uploads in flight: one that outlasts an outage holds a thread of the flow's, and generation needs threads too."""


class ShardUploads:
    """Sends shards to ``url`` as they come, if there is one.

    ``warn`` is told of what an outage leaves for the end of the run, where the upload stage sends whatever is missing.
    """

    def __init__(self, in_flight: InFlight, plan: RunPlan, url: str | None, warn: Callable[[str], None]) -> None:
        self._in_flight = in_flight
        self._plan = plan
        self._url = url
        self._warn = warn
        self._waiting: deque[Shard] = deque()
        self._under_way = 0
        self._told: str | None = None

    def add(self, shard: Shard) -> None:
        if self._url is None:
            return
        self._waiting.append(shard)
        self._begin(self._url)

    def _begin(self, url: str) -> None:
        while self._waiting and self._under_way < MOST:
            self._under_way += 1
            self._watch(self._waiting.popleft(), url)

    def _watch(self, shard: Shard, url: str) -> None:
        def uploaded(_: object) -> None:
            self._under_way -= 1
            self._told = None
            self._begin(url)

        def leave_to_the_end(error: HarvestError) -> None:
            self._under_way -= 1
            # those that wait would each wait as long for the same outage
            self._tell([shard, *self._waiting], str(error))
            self._waiting.clear()

        self._in_flight.watch(upload_shard.submit(self._plan, shard, url), uploaded, let_pass=leave_to_the_end)

    def _tell(self, left: list[Shard], error: str) -> None:
        names = ", ".join(str(shard.index) for shard in left)
        later = f"shard {names} goes" if len(left) == 1 else f"shards {names} go"
        # uploads in flight fail of one outage one after the other
        reason = "for the same reason" if error == self._told else f"as the upload failed now: {error}"
        self._told = error
        self._warn(f"{later} up at the end of the run, {reason}")
