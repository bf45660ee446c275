"""Starts, watches and cancels the flow runs of the nodes of one collection. It knows nothing of shards."""

import contextlib
import contextvars
import logging
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from uuid import UUID

from prefect import State, runtime
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Cancelling, Crashed

from tasks.errors import ConfigError
from tasks.time_limits import time_limit

DEPLOYMENT = "generate-shards/generate-shards"
POLL_SECONDS = 3.0
SILENT_SECONDS = 600.0
"""How long a flow run may be Pending, or Running without a first record on the shared storage."""
LOST_LEASES = 3
"""A flow run whose record has not changed for this many leases counts as lost. Its shards are free after one lease."""
CANCEL_SECONDS = 10.0
"""How long ``cancel`` waits for the server."""

logger = logging.getLogger(__name__)


def check_deployment() -> None:
    """Raise ConfigError unless the server has the deployment that the nodes run."""
    try:
        with get_client(sync_client=True) as client:
            client.read_deployment_by_name(DEPLOYMENT)
    except ObjectNotFound:
        raise ConfigError(
            f"the Prefect server has no deployment {DEPLOYMENT}, which the nodes run. Run `harvest deploy` once, and "
            "`harvest worker --pool harvest-nodes` on every node"
        ) from None


@dataclass(kw_only=True)
class NodeRun:
    """One flow run of ``generate_shards``. ``lost`` is set when its state says Running but it shows no sign of life."""

    flow_run_id: UUID
    number: int
    state: State | None = None
    changed_at: float = field(default_factory=time.monotonic)
    lost: bool = False

    @property
    def owner(self) -> str:
        return str(self.flow_run_id)

    @property
    def ended(self) -> bool:
        return self.lost or (self.state is not None and self.state.is_final())

    @property
    def working(self) -> bool:
        return not self.ended and self.state is not None and self.state.is_running()

    def describe(self) -> str:
        if self.lost:
            return "lost: it gave no sign of life"
        if self.state is None:
            return "unknown"
        return f"{self.state.name}" + (f": {self.state.message}" if self.state.message else "")


class NodeRuns:
    """All node runs that this attempt of the collecting flow run has started."""

    def __init__(self, run_id: str, shared: str, block: str | None) -> None:
        context = FlowRunContext.get()
        assert context is not None
        assert context.flow_run is not None
        self.attempt = f"{context.flow_run.id}-{runtime.flow_run.run_count or 1}"
        self.runs: list[NodeRun] = []
        self._run_id = run_id
        self._given = {"run": run_id, "shared": shared, "attempt": self.attempt, "aws_credentials_block": block}
        self._polled_at = 0.0

    @property
    def live(self) -> list[NodeRun]:
        return [run for run in self.runs if not run.ended]

    def start(self, count: int) -> list[NodeRun]:
        """Start ``count`` more node runs, and return them. The idempotency key makes a repeated request harmless."""
        started = []
        for place in range(count):
            number = len(self.runs)
            flow_run = run_deployment(
                DEPLOYMENT,
                parameters={**self._given, "place": place},
                flow_run_name=f"{self._run_id} · node {number + 1}",
                timeout=0,
                idempotency_key=f"{self._run_id}/{self.attempt}/{number}",
                as_subflow=True,
            )
            assert isinstance(flow_run, FlowRun)
            run = NodeRun(flow_run_id=flow_run.id, number=number, state=flow_run.state)
            self.runs.append(run)
            started.append(run)
        return started

    def poll(
        self, silent: Mapping[str, float], lease_s: Mapping[str, float], *, leases: float = LOST_LEASES
    ) -> list[NodeRun]:
        """Read the states of the live node runs, at most every ``POLL_SECONDS``; return those that have ended since.

        ``silent`` has the seconds since each owner's record last changed, ``lease_s`` the length of each owner's lease.
        A node that is silent for more than ``leases`` leases is lost. A server that does not answer changes nothing.
        """
        if time.monotonic() - self._polled_at < POLL_SECONDS:
            return []
        self._polled_at = time.monotonic()
        ended = []
        for run in self.live:
            limit_s = leases * time_limit(lease_s.get(run.owner, SILENT_SECONDS))
            try:
                with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), get_client(sync_client=True) as client:
                    self._update(client, run, silent.get(run.owner), limit_s)
            except ObjectNotFound:
                run.lost = True
            except Exception as error:
                logger.debug("could not read flow run %s: %s", run.flow_run_id, error)
            if run.ended:
                ended.append(run)
        return ended

    def cancel(self) -> None:
        """Tell the live node runs to end. Never raises, and waits ``CANCEL_SECONDS`` for the server at most."""
        if targets := self.live:
            # the context has the flow's settings, which name the server
            context = contextvars.copy_context()
            thread = threading.Thread(target=context.run, args=(self._cancel, targets), daemon=True)
            thread.start()
            thread.join(CANCEL_SECONDS)

    def cancel_owners(self, owners: Iterable[str]) -> None:
        """Cancel the flow runs that an earlier attempt left behind."""
        for owner in owners:
            try:
                with get_client(sync_client=True) as client:
                    state = client.read_flow_run(UUID(owner)).state
                    if state is not None and not state.is_final():
                        client.set_flow_run_state(UUID(owner), Cancelling(message="Another attempt collects this run."))
            except (ObjectNotFound, ValueError):
                continue

    def _update(self, client: SyncPrefectClient, run: NodeRun, silent_s: float | None, limit_s: float) -> None:
        state = client.read_flow_run(run.flow_run_id).state
        if state is None:
            return
        if run.state is None or state.type != run.state.type:
            run.changed_at = time.monotonic()
        run.state = state
        since = time.monotonic() - run.changed_at
        if state.is_running():
            run.lost = since > time_limit(SILENT_SECONDS) if silent_s is None else silent_s > limit_s
        elif state.is_pending() or state.is_cancelling():
            run.lost = since > time_limit(SILENT_SECONDS)
        if run.lost:
            message = "No sign of life on the shared storage; the other nodes go on with its shards."
            client.set_flow_run_state(run.flow_run_id, Crashed(message=message), force=True)

    def _cancel(self, runs: list[NodeRun]) -> None:
        for run in runs:
            with (
                contextlib.suppress(Exception),
                temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 1}),
                get_client(sync_client=True) as client,
            ):
                # the server cancels a flow run at once if no worker has begun it
                client.set_flow_run_state(run.flow_run_id, Cancelling(message="The collection is over."))
