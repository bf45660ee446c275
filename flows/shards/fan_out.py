"""The collecting side of a run over several nodes: the nodes generate, this process does everything else."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from prefect import runtime
from prefect.logging import get_run_logger

from flows.reporting.generation_events import GenerationEvents
from flows.reporting.progress import FlowLog, Progress, log_and_print, open_display
from flows.reporting.reporter import Reporter
from flows.server.aws_credentials import transfer_of_flow_run
from flows.shards.node_runs import NodeRun, NodeRuns, check_deployment
from flows.shards.open_ledgers import register_ledger
from flows.shards.pending_tasks import PendingTasks
from flows.shards.shard_pipeline import score_and_upload
from flows.shards.shard_uploads import ShardUploads, upload_submitter
from flows.shards.stages import fetch_shard
from tasks.errors import ConfigError, HarvestError, NodesLost
from tasks.fleet.ledger import Ledger, LedgerSnapshot
from tasks.fleet.node_status import NodeStatus, node_name, read_statuses
from tasks.fleet.node_totals import merge_nodes
from tasks.fleet.shard_supply import GIVE_UP_SECONDS
from tasks.fleet.shared_run import check_nodes, open_shared, publish_order
from tasks.fleet.shared_run import fetch_shard as fetch_one
from tasks.plan.run_plan import RunPlan
from tasks.plan.shards import RemainingShards, Shard, find_remaining
from tasks.storage.destination import CHECK_ATTEMPTS, check_destination
from tasks.time_limits import time_limit

POLL_SECONDS = 2.0
"""Time between two reads of the ledger."""
MAX_CONCURRENT_FETCHES = 8
MAX_STARTS = 3
"""How often nodes are started without a finished shard in between. Then the run fails."""
SHUTDOWN_SECONDS = 120.0
"""How long nodes have to end by themselves when all shards are finished. They send their last figures when they end."""

_FINAL_ERRORS = {"ConfigError", "PreflightFailed", "OutOfMemory", "EngineStartError"}
"""Types of errors that another start of the nodes does not cure."""


def check_fan_out(nodes: int, shared: str | None, baseline: str | None) -> None:
    """Raise ConfigError when a collection over ``nodes`` nodes cannot work."""
    check_nodes(nodes, shared, baseline, _check_destination)
    if nodes > 1:
        check_deployment()


def fetch_finished(plan: RunPlan, shards: list[Shard], shared: str) -> None:
    """Fetch the finished shards that are only on shared storage, so that the run can go on without nodes."""
    ledger = _open_ledger(plan, shared)
    finished = ledger.look().finished
    for shard in find_remaining(plan, shards).to_generate:
        if shard.index in finished and (node := fetch_one(ledger, plan, shard)):
            log_and_print(f"shard {shard.index} was finished by {node} before")


def close_shared(plan: RunPlan, shared: str) -> None:
    """Add the nodes' records to the run, then remove the run from shared storage. All shards must be fetched before."""
    ledger = _open_ledger(plan, shared)
    merge_nodes(ledger.store, plan, read_statuses(ledger.store, ledger.look().nodes))
    ledger.close()


def generate_on_nodes(
    plan: RunPlan, shards: list[Shard], upload_url: str | None, reporter: Reporter, *, nodes: int, shared: str
) -> None:
    """Have ``nodes`` nodes generate the missing shards, and fetch and score each one when it is finished."""
    missing = find_remaining(plan, shards)
    if not missing:
        return
    if upload_url is not None:
        _check_destination(upload_url)
    fan_out = _FanOut(plan, missing, upload_url, reporter, nodes=nodes, shared=shared)
    with GenerationEvents(reporter, plan.run_id):
        fan_out.run()


@dataclass(kw_only=True)
class _Counters:
    """Sums over all nodes, as far as the nodes have reported."""

    fetched: int = 0
    first_admitted_at: float | None = None
    records: dict[str, NodeStatus] = field(default_factory=dict)
    live: set[str] = field(default_factory=set)
    rollouts_resumed: int = 0

    @property
    def rollouts_finished(self) -> int:
        return self.fetched + sum(record.in_progress for owner, record in self.records.items() if owner in self.live)

    @property
    def tokens_generated(self) -> int:
        return sum(record.tokens for record in self.records.values())


class _FanOut:
    def __init__(
        self,
        plan: RunPlan,
        missing: RemainingShards,
        upload_url: str | None,
        reporter: Reporter,
        *,
        nodes: int,
        shared: str,
    ) -> None:
        self._plan = plan
        self._missing = missing
        self._reporter = reporter
        self._nodes = nodes
        self._ledger = _open_ledger(plan, shared)
        self._runs = NodeRuns(plan.run_id, shared, runtime.flow_run.parameters.get("aws_credentials_block"))
        self._awake = threading.Event()
        self._pending = PendingTasks(self._awake.set)
        self._waiting = {shard.index: shard for shard in missing.to_generate}
        self._fetching: set[int] = set()
        self._shards_by_node: dict[str, int] = {}
        self._counters = _Counters()
        done_before = sum(shard.num_rollouts for shard in missing.generated)
        self._progress = Progress(total=plan.num_rollouts, done_before=done_before, counters=self._counters)
        self._display = open_display(self._progress)
        self._starts = 0
        self._failing_since: float | None = None
        self._log = FlowLog(self._display)
        self._uploads = ShardUploads(self._pending, upload_submitter(plan, upload_url), self._log.warning)

    def run(self) -> None:
        """Generate, fetch and score every missing shard.

        Raises NodesLost or ConfigError when the nodes cannot generate, and the errors of fetching and scoring.
        """
        if self._missing.generated:
            self._log.info(
                f"resuming {self._plan.run_id}: {len(self._missing.generated)} shards are finished and skipped"
            )
        for shard in self._missing.to_score:
            self._score(shard)
        try:
            self._end_earlier_attempt()
            while self._waiting or self._pending:
                view = self._look()
                if view is not None:
                    self._fetch(view)
                    self._watch(view)
                self._show_progress()
                self._awake.wait(POLL_SECONDS)
                self._awake.clear()
                self._pending.run_callbacks()
            self._await_end()
        finally:
            # runs also when this flow is cancelled or gets SIGTERM
            self._runs.cancel()
        self._display.close()
        self._reporter.progress(self._progress.percent, self._progress.line(), now=True)

    def _end_earlier_attempt(self) -> None:
        """End the nodes of an earlier attempt, and free the shards that they have claimed."""
        view = self._ledger.look()
        owners = set(view.nodes).union(*view.claims.values())
        self._runs.cancel_owners(owners)
        for owner in owners:
            self._ledger.drop_from(owner)

    def _look(self) -> LedgerSnapshot | None:
        try:
            view = self._ledger.look()
            known = self._counters.records
            changed = [owner for owner, age in view.nodes.items() if age == 0 or owner not in known]
            known |= {record.owner: record for record in read_statuses(self._ledger.store, changed)}
        except HarvestError as error:
            now = time.monotonic()
            self._failing_since = self._failing_since or now
            get_run_logger().warning("the shared storage is out of reach: %s", error)
            if isinstance(error, ConfigError) or now - self._failing_since > time_limit(GIVE_UP_SECONDS):
                raise
            return None
        self._failing_since = None
        return view

    def _fetch(self, view: LedgerSnapshot) -> None:
        for index in sorted((view.finished & self._waiting.keys()) - self._fetching):
            if len(self._fetching) == MAX_CONCURRENT_FETCHES:
                return
            self._fetching.add(index)
            shard = self._waiting[index]
            self._pending.add(
                fetch_shard.submit(register_ledger(self._ledger), self._plan, shard), self._on_fetched(shard)
            )

    def _on_fetched(self, shard: Shard) -> Callable[[str | None], None]:
        def on_fetched(node: str | None) -> None:
            self._fetching.discard(shard.index)
            if node is None:
                self._log.info(f"shard {shard.index} came damaged from the shared storage and is generated again")
                return
            del self._waiting[shard.index]
            self._starts = 0
            self._shards_by_node[node] = self._shards_by_node.get(node, 0) + 1
            self._counters.fetched += shard.num_rollouts
            done = len(self._missing.to_generate) - len(self._waiting)
            self._log.info(f"shard {shard.index} came from {node} ({done} of {len(self._missing.to_generate)})")
            self._score(shard)

        return on_fetched

    def _score(self, shard: Shard) -> None:
        def on_scored(scored: Shard) -> None:
            self._progress.add_scores(self._plan.paths.scores(scored.index))

        score_and_upload(self._pending, self._plan, shard, self._uploads, on_scored)

    def _watch(self, view: LedgerSnapshot) -> None:
        unfinished = [shard for index, shard in self._waiting.items() if index not in view.finished]
        leases = {owner: record.lease_s for owner, record in self._counters.records.items()}
        for run in self._runs.poll(view.nodes, leases):
            self._on_ended(run, bool(unfinished))
        self._counters.live = {run.owner for run in self._runs.live}
        if unfinished and not self._runs.live:
            self._start(unfinished)

    def _start(self, unfinished: list[Shard]) -> None:
        if self._starts:
            # the nodes may have reported the cause since the last look
            self._look()
            self._raise_if_hopeless()
        self._starts += 1
        publish_order(self._ledger.store, self._plan, unfinished, self._nodes)
        started = self._runs.start(min(self._nodes, len(unfinished)))
        self._counters.live = {run.owner for run in self._runs.live}
        self._log.info(
            f"{len(unfinished)} shards for {len(started)} nodes, which begin as workers of harvest-nodes take them"
        )

    def _on_ended(self, run: NodeRun, unfinished: bool) -> None:
        record = self._counters.records.get(run.owner)
        name = record.node if record else f"node {run.number + 1}"
        self._log.info(f"{name} ended ({run.describe()})")
        if unfinished and (free := self._ledger.drop_from(run.owner)):
            self._log.info(f"shards {', '.join(map(str, free))} of {name} are free for the other nodes")

    def _raise_if_hopeless(self) -> None:
        causes_by_owner = {run.owner: run.describe() for run in self._runs.runs}
        errors = []
        for owner in causes_by_owner:
            record = self._counters.records.get(owner)
            if record is not None and record.error is not None:
                errors.append(record.error)
                causes_by_owner[owner] = f"{record.node}: {record.error['message']} (logs on that node: {record.logs})"
        causes = "; ".join(dict.fromkeys(causes_by_owner.values()))
        if errors and len(errors) == len(causes_by_owner) and all(error["type"] in _FINAL_ERRORS for error in errors):
            kind = ConfigError if all(error["type"] == "ConfigError" for error in errors) else NodesLost
            raise kind(f"no node can generate: {causes}")
        if self._starts >= MAX_STARTS:
            raise NodesLost(
                f"nodes were started {self._starts} times and finished nothing: {causes}. Remove the cause, then run "
                "the same command, which resumes"
            )

    def _show_progress(self) -> None:
        counters = self._counters
        if counters.first_admitted_at is None and counters.tokens_generated:
            counters.first_admitted_at = time.monotonic()
        self._display.refresh()
        shares = [f"{node} {count} shards" for node, count in sorted(self._shards_by_node.items())]
        self._reporter.progress(self._progress.percent, " · ".join([self._progress.line(), *shares]))

    def _await_end(self) -> None:
        """Wait for the working nodes. Each ends when it sees that nothing is left."""
        deadline = time.monotonic() + time_limit(SHUTDOWN_SECONDS)
        while time.monotonic() < deadline and any(run.working for run in self._runs.live):
            view = self._look()
            if view is not None:
                leases = {owner: record.lease_s for owner, record in self._counters.records.items()}
                # a live node writes a record when it sees that nothing is left
                for run in self._runs.poll(view.nodes, leases, leases=1):
                    self._on_ended(run, unfinished=False)
            time.sleep(POLL_SECONDS)


def _check_destination(url: str) -> None:
    check_destination(url, transfer_of_flow_run(attempts=CHECK_ATTEMPTS))


def _open_ledger(plan: RunPlan, shared: str) -> Ledger:
    # this ledger claims nothing; the lease only decides which claims of an earlier attempt have expired
    store = open_shared(shared, plan.run_id, plan.paths.state, transfer_of_flow_run())
    return Ledger(store, owner="collector", node=node_name(), lease_s=120)
