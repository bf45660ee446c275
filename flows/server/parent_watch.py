"""Watches the collecting flow run from a node's flow run: a node must not go on after the collection has ended."""

import threading
from types import TracebackType
from typing import Self
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

POLL_SECONDS = 20.0


class ParentWatch:
    """Polls the state of one flow run. Use as a context manager. A server that does not answer changes nothing."""

    def __init__(self, flow_run_id: UUID | None) -> None:
        self._flow_run_id = flow_run_id
        self._final_state: str | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="parent-watch", daemon=True)

    @property
    def final_state(self) -> str | None:
        """The final state of the watched flow run, in words; None while it runs."""
        return self._final_state

    def __enter__(self) -> Self:
        if self._flow_run_id is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()

    def _run(self) -> None:
        assert self._flow_run_id is not None
        while not self._stop.wait(POLL_SECONDS) and self._final_state is None:
            try:
                with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), get_client(sync_client=True) as client:
                    state = client.read_flow_run(self._flow_run_id).state
            except Exception:
                continue
            if state is not None and state.is_final():
                self._final_state = f"{state.name}: {state.message or 'no message'}"
