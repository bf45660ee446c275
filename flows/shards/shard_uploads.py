"""Uploads finished shards while others are generated, so that an outage of the destination stops no generation."""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from prefect import Task
from prefect.futures import PrefectFuture

from flows.shards.pending_tasks import PendingTasks
from flows.shards.stage_order import Ended
from tasks.errors import HarvestError
from tasks.plan.run_plan import RunPlan
from tasks.plan.shards import Shard

MAX_CONCURRENT_UPLOADS = 4
"""It is small, because an upload holds one of the flow's threads during an outage, and generation needs threads too."""

SubmitUpload = Callable[[Shard, Ended], PrefectFuture[Any]]
"""Submits the upload of a shard, which comes after its scoring."""


def upload_submitter(task: Task[..., Any], plan: RunPlan, url: str | None) -> SubmitUpload | None:
    """Return a function that submits ``task``, the upload of a shard to ``url``; None without a URL."""
    return None if url is None else lambda shard, scored: task.submit(plan, shard, url, wait_for=[scored])


class ShardUploads:
    """Uploads each added shard with ``submit``; does nothing when ``submit`` is None.

    When an outage makes an upload fail, ``warn`` gets a message and the shard is left out. The upload stage at the end
    of the run sends whatever is missing. The messages name the run ``run_id``, where several are collected.
    """

    def __init__(
        self,
        pending: PendingTasks,
        submit: SubmitUpload | None,
        warn: Callable[[str], None],
        *,
        run_id: str | None = None,
    ) -> None:
        self._pending = pending
        self._submit = submit
        self._warn = warn
        self._of_run = "" if run_id is None else f" of {run_id}"
        self._waiting: deque[tuple[Shard, Ended]] = deque()
        self._uploading = 0
        self._last_error: str | None = None

    def add(self, shard: Shard, scored: Ended) -> None:
        """Upload ``shard``, now or when fewer uploads are in progress. ``scored`` is its scoring, which has ended."""
        if self._submit is None:
            return
        self._waiting.append((shard, scored))
        self._submit_waiting(self._submit)

    def _submit_waiting(self, submit: SubmitUpload) -> None:
        while self._waiting and self._uploading < MAX_CONCURRENT_UPLOADS:
            shard, scored = self._waiting.popleft()
            self._uploading += 1
            self._pending.add(
                submit(shard, scored),
                partial(self._on_uploaded, submit),
                on_retryable_error=partial(self._on_outage, shard),
            )

    def _on_uploaded(self, submit: SubmitUpload, _: object) -> None:
        self._uploading -= 1
        self._last_error = None
        self._submit_waiting(submit)

    def _on_outage(self, shard: Shard, error: HarvestError) -> None:
        self._uploading -= 1
        # the waiting shards are left out too: each would wait as long for the end of the same outage
        self._warn_of([shard, *(waiting for waiting, _ in self._waiting)], str(error))
        self._waiting.clear()

    def _warn_of(self, shards: list[Shard], error: str) -> None:
        names = ", ".join(str(shard.index) for shard in shards) + self._of_run
        later = f"shard {names} goes" if len(shards) == 1 else f"shards {names} go"
        # uploads in progress fail one after the other from the same outage
        reason = "for the same reason" if error == self._last_error else f"as the upload failed now: {error}"
        self._last_error = error
        self._warn(f"{later} up at the end of the run, {reason}")
