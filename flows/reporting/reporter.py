"""Sends a flow run's artifacts and events to the Prefect server, from a thread of its own.

Reports must not delay generation or fail a run. A request that fails is repeated until the flow ends, then given up.
"""

import contextlib
import contextvars
import json
import logging
import queue
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from http.client import NOT_FOUND, REQUEST_TIMEOUT, TOO_EARLY, TOO_MANY_REQUESTS
from itertools import islice
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from httpx import HTTPStatusError
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.context import FlowRunContext
from prefect.events import emit_event
from prefect.settings import (
    PREFECT_API_REQUEST_TIMEOUT,
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    temporary_settings,
)

from flows.server.server_loss import declare_lost, is_lost
from tasks.plain_text import markdown
from tasks.time_limits import time_limit

logger = logging.getLogger(__name__)

PROGRESS_SECONDS = 5.0
"""The shortest time between two updates of the progress artifact."""
RETRY_SECONDS = 2.0
REQUEST_SECONDS = 15.0
"""A request without an answer is repeated after this time. Prefect's own limit of a minute would delay the rest."""
LONGEST_REQUEST_SECONDS = 60.0
"""Each repetition may take twice as long, up to this: a server that is only slow must get the time that it needs."""
FLUSH_SECONDS = 120.0
"""At its end a flow waits this long for each next request to reach the server."""

TableRow = dict[str, Any]
Request = Callable[[SyncPrefectClient], object]
"""Sends one thing to the Prefect server."""


class Reporter:
    """Queues artifacts and events. Use it as a context manager in a flow. Its methods never block, on any thread."""

    def __init__(self) -> None:
        flow_context = FlowRunContext.get()
        assert flow_context is not None
        assert flow_context.flow_run is not None
        self._flow_run = flow_context.flow_run
        self._queue: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._flush_timeout: float | None = None
        self._last_sent = 0.0
        self._progress_id: UUID | None = None
        self._progress_due = 0.0
        self._latest: tuple[float, str] | None = None
        self._lock = threading.Lock()
        self._at_refusal = logging.WARNING
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._send_all,), name="reporter", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # after a signal the user waits for the processes to end, not for the tables
        was_signalled = error is not None and not isinstance(error, Exception)
        timeout = 1.0 if was_signalled else time_limit(FLUSH_SECONDS)
        self._last_sent = time.monotonic()
        self._flush_timeout = timeout
        self._queue.put(None)
        # a slow server takes one request after the other, so the timeout starts anew with each
        while self._thread.is_alive() and not self._given_up:
            self._thread.join(0.1)
        if self._thread.is_alive() and not is_lost() and not was_signalled and not _server_answers():
            declare_lost(f"the Prefect server {PREFECT_API_URL.value()} has not answered for {timeout:.0f} s")

    def progress(self, percent: float, text: str, *, now: bool = False) -> None:
        """Show how far the run is. Of several calls within ``PROGRESS_SECONDS`` only the latest is sent."""
        with self._lock:
            self._latest = (percent, text)
        if now or time.monotonic() >= self._progress_due:
            self._progress_due = time.monotonic() + PROGRESS_SECONDS
            self._queue.put(self._send_progress)

    def table(self, key: str, rows: list[TableRow], description: str) -> None:
        """Show ``rows``, their cells as they are, under a ``description`` in Markdown."""
        if rows:
            self._artifact(key, "table", json.dumps([literal_row(row) for row in rows]), description)

    def markdown(self, key: str, text: str, description: str) -> None:
        self._artifact(key, "markdown", text, description)

    def image(self, key: str, svg: str, description: str) -> None:
        """Show a picture, on white also where the UI is dark."""
        # a str, as Markup would escape what replaces
        picture = str.replace(str(svg), "<svg ", '<svg style="background:#fff" ', 1).encode()
        self._artifact(key, "image", f"data:image/svg+xml;base64,{b64encode(picture).decode()}", description)

    def event(self, event: str, run_id: str, payload: dict[str, Any]) -> None:
        """Emit ``event`` about the run ``run_id``, related to this flow run."""
        resource = {"prefect.resource.id": f"harvest.run.{run_id}", "prefect.resource.name": run_id}
        related = [
            {"prefect.resource.id": f"prefect.flow-run.{self._flow_run.id}", "prefect.resource.role": "flow-run"}
        ]
        self._queue.put(lambda client: emit_event(event, resource=resource, related=related, payload=payload))

    def describe_flow_run(self, *, name: str, tags: set[str], parameters: dict[str, Any]) -> None:
        """Name the flow run, add ``tags`` to it, and record the resolved values of its ``parameters``."""
        flow_run = self._flow_run
        changes: dict[str, Any] = {"name": name, "tags": {*flow_run.tags, *tags}}
        if parameters:
            changes["parameters"] = {**flow_run.parameters, **parameters}
        self._queue.put(lambda client: client.update_flow_run(flow_run.id, **changes))

    def _artifact(self, key: str, kind: str, data: str, description: str) -> None:
        artifact = ArtifactCreate(key=key, type=kind, data=data, description=description, flow_run_id=self._flow_run.id)
        self._queue.put(lambda client: client.create_artifact(artifact))

    def _send_progress(self, client: SyncPrefectClient) -> None:
        latest = self._latest
        if latest is None:
            return
        percent, text = latest
        if self._progress_id is not None:
            try:
                client.update_artifact(self._progress_id, ArtifactUpdate(data=percent, description=text))
            except HTTPStatusError as error:
                if error.response.status_code != NOT_FOUND:
                    raise
                # somebody has deleted it
                self._progress_id = None
        if self._progress_id is None:
            artifact = ArtifactCreate(
                key="harvest-progress", type="progress", data=percent, description=text, flow_run_id=self._flow_run.id
            )
            self._progress_id = client.create_artifact(artifact).id
        with self._lock:
            # a later call may have come while this one was sent
            if self._latest is latest:
                self._latest = None

    @property
    def _given_up(self) -> bool:
        if self._flush_timeout is None:
            return False
        return is_lost() or time.monotonic() >= self._last_sent + self._flush_timeout

    def _send_all(self) -> None:
        limits = request_limits()
        limit, request = next(limits), self._queue.get()
        while request is not None:
            try:
                with _limited_client(limit) as client:
                    while request is not None:
                        request(client)
                        self._last_sent = time.monotonic()
                        limits, request = islice(request_limits(), 1, None), self._queue.get()
            except Exception as error:
                logger.debug("could not report to Prefect: %s", error)
                if self._given_up:
                    return
                if _is_refused(error) and _server_answers():
                    # again and again it would keep all that follows from the server
                    logger.log(self._at_refusal, "Prefect's server refuses a report, which is left out: %s", error)
                    self._at_refusal = logging.DEBUG
                    limits, request = request_limits(), self._queue.get()
                else:
                    time.sleep(RETRY_SECONDS)
                limit = next(limits)


@contextlib.contextmanager
def _limited_client(timeout: float) -> Iterator[SyncPrefectClient]:
    """Yield a client that does not repeat a request: its own retries take minutes, and do not stop when the flow ends.

    It is kept while its requests succeed. One per request took half of the flow's processor time, as Prefect then reads
    all of its settings and the certificates again.
    """
    updates = {PREFECT_CLIENT_MAX_RETRIES: 0, PREFECT_API_REQUEST_TIMEOUT: timeout}
    with temporary_settings(updates), get_client(sync_client=True) as client:
        yield client


def _is_refused(error: Exception) -> bool:
    """Return whether the server has answered that it does not take the request, and not that it is busy."""
    if not isinstance(error, HTTPStatusError):
        return False
    busy = (REQUEST_TIMEOUT, TOO_EARLY, TOO_MANY_REQUESTS)
    return error.response.is_client_error and error.response.status_code not in busy


def literal_row(row: TableRow) -> TableRow:
    """Return the row with its strings in Markdown: Prefect's page takes them for that."""
    return {name: markdown(value, 2_000) if isinstance(value, str) else value for name, value in row.items()}


def request_limits() -> Iterator[float]:
    """Yield how many seconds a request may take, and each of its repetitions."""
    seconds = REQUEST_SECONDS
    while True:
        yield time_limit(seconds)
        seconds = min(2 * seconds, LONGEST_REQUEST_SECONDS)


def _server_answers() -> bool:
    try:
        with _limited_client(time_limit(REQUEST_SECONDS)) as client:
            client.hello()
    except Exception as error:
        logger.debug("Prefect does not answer: %s", error)
        return False
    return True
