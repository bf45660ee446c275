"""generate_shards: the flow that each node runs in a collection over several nodes. ``collect_rollouts`` starts it."""

import socket
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

from prefect import State, flow
from prefect.context import FlowRunContext
from prefect.logging import get_run_logger
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from flows.parameters import PARAMETERS, chosen, takes
from flows.reporting.flow_failures import explain_failures
from flows.reporting.generation_events import report_pool_event
from flows.reporting.reporter import Reporter
from flows.server.aws_credentials import transfer_with
from flows.server.parent_watch import ParentWatch
from flows.shards.generation_session import generation_session
from flows.shards.node_driver import NodeDriver
from profiles.settings import Settings
from tasks.errors import HarvestError
from tasks.fleet.ledger import Ledger
from tasks.fleet.node_status import node_name
from tasks.fleet.node_status_writer import NodeStatusWriter, shards_begun
from tasks.fleet.shard_supply import ShardSupply
from tasks.fleet.shared_run import SharedOrder, open_shared, receive_order, unpack_questions
from tasks.locks import run_lock
from tasks.node.gpu_lock import lock_gpus
from tasks.node.gpu_selection import gpus_of_run
from tasks.node.preflight import run_preflight
from tasks.plan.parameters import parameters_of
from tasks.plan.run_directory import open_run
from tasks.plan.shards import Shard
from tasks.results.damaged_files import set_aside_damaged


class NodeParameters(Settings):
    """The parameters of a node: the collection that it works for, and how."""

    run: str = Field(title="Run", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """Id of a run that is being collected over several nodes."""
    shared: str = Field(title="Shared storage", min_length=1)
    """Where the collection keeps its ledger and shards."""
    attempt: Annotated[str, Field(pattern=r"^[0-9a-f-]{36}-\d+$")] | None = Field(None, title="Attempt")
    """Collecting flow run and its attempt; when that flow run ends, so does the node. Without it, the node goes on."""
    place: int = Field(0, title="Place", ge=0)
    """Number of this node, from 0; it decides at which shard the node begins."""
    lease_seconds: int = Field(120, title="Lease, seconds", ge=2, le=3600)
    """Seconds after which another node may take a claim that was not renewed."""
    scratch: str = Field("scratch", title="Scratch directory", min_length=1)
    """Directory on a disk of the node; under a worker, relative to its HARVEST_HOME."""


@flow(
    name="generate-shards",
    task_runner=ThreadPoolTaskRunner(max_workers=64),  # type: ignore[arg-type]  # its type parameter cannot be inferred
    persist_result=False,
    validate_parameters=True,
)
@takes((*parameters_of(NodeParameters), PARAMETERS["aws_credentials_block"]))
def generate_shards(aws_credentials_block: str | None, **given: Any) -> "State[dict[str, Any]]":
    """Generate shards of a run on this node until every shard is finished on some node."""
    asked, context = chosen(NodeParameters, given), FlowRunContext.get()
    assert context is not None
    assert context.flow_run is not None
    node, root = node_name(), Path(asked.scratch).resolve()
    with explain_failures(), Reporter() as reporter:
        reporter.describe_flow_run(
            name=f"{asked.run} · {node}", tags={f"run:{asked.run}", f"node:{node}"}, parameters={}
        )
        ledger = Ledger(
            open_shared(asked.shared, asked.run, root / asked.run / "state", transfer_with(aws_credentials_block)),
            owner=str(context.flow_run.id),
            node=node,
            place=f"{socket.gethostname()}:{root}",
            lease_s=asked.lease_seconds,
        )
        status = NodeStatusWriter(ledger, node=node, attempt=asked.attempt or "", logs=str(root / asked.run / "logs"))
        with status, ParentWatch(_flow_run_of(asked.attempt)) as parent:
            order = receive_order(ledger.store, asked.run, root)
            status.planned(order.plan)
            _Node(order, ledger, status, parent, reporter).generate(asked.place)
    made = len(status.published)
    return Completed(message=f"{made} of {len(order.shards)} shards were made on {node}", data={"shards": made})


class _Node:
    def __init__(
        self, order: SharedOrder, ledger: Ledger, status: NodeStatusWriter, parent: ParentWatch, reporter: Reporter
    ) -> None:
        self._order = order
        self._plan = order.plan
        self._ledger = ledger
        self._status = status
        self._parent = parent
        self._reporter = reporter
        self._log = get_run_logger()

    def generate(self, place: int) -> None:
        plan, ledger = self._plan, self._ledger
        with run_lock(plan.paths.state / "lock"):
            for told in set_aside_damaged(plan):
                self._log.warning("%s", told)
            for pid in open_run(plan):
                self._log.warning("ended process %d, left over from a killed run", pid)
            unpack_questions(self._order)
            # only the holder of the lock works here, so the processes behind earlier claims from here have ended
            if left := ledger.drop_here():
                self._log.info("shards %s were claimed from here before and are taken up again", left)
            ledger.store.abort_orphaned_uploads()
            with lock_gpus(gpus_of_run(plan), run_id=plan.run_id, on_wait=self._log.info):
                run_preflight(plan, None)
                self._serve(place)

    def _serve(self, place: int) -> None:
        plan, status = self._plan, self._status
        shards = {shard.index: shard for shard in self._order.shards}
        with generation_session(
            [plan], listener=lambda event: report_pool_event(event, plan.run_id, self._reporter), log=self._log.info
        ) as pool:
            status.generating(pool, plan.profile.gpus)
            supply = ShardSupply(
                self._ledger,
                list(shards),
                first=shards_begun(plan, list(shards)),
                nodes=self._order.nodes,
                place=place,
                tell=self._log.warning,
                wake=pool.wake,
            )

            def on_published(shard: Shard) -> None:
                status.add(shard.index, shard.num_rollouts)
                self._log.info("shard %d is published", shard.index)

            def on_tick() -> None:
                if self._parent.final_state is not None:
                    raise HarvestError(f"the collection ended before its nodes: {self._parent.final_state}")
                share = 100 * supply.num_finished / len(shards)
                self._reporter.progress(share, f"{len(status.published)} shards from here, of {len(shards)} wanted")

            with supply:
                NodeDriver(plan, pool, self._ledger, shards).run(supply, on_published=on_published, on_tick=on_tick)


def _flow_run_of(attempt: str | None) -> UUID | None:
    """Return the id of the collecting flow run from ``attempt``, which is ID-NUMBER."""
    return UUID(attempt.rpartition("-")[0]) if attempt else None
