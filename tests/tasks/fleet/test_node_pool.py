"""A pool of scripted nodes: who gets which shard, what is taken of them, and when the pool gives up."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from flows.server.interruption import LIMIT_SECONDS
from tasks.errors import ConfigError, HarvestError, NodesLost
from tasks.fleet.cluster import Need
from tasks.fleet.node_pool import KILL_SECONDS, NodePool
from tasks.fleet.node_roster import NodeRoster
from tasks.fleet.node_status import NodeAtWork
from tasks.fleet.node_watch import MOST_LOSSES, NodeWatch
from tasks.fleet.ray_cluster import END_SECONDS
from tasks.generation.shard_queue import ShardResult
from tasks.plan.run_config import RunConfig
from tasks.plan.run_plan import RunPlan, plan_run
from tasks.plan.shards import shard_dataset
from tasks.plan.waves import find_remaining
from tasks.records import RunPaths
from tests.support.fake_profile import write_fake_profile
from tests.support.patience import SHORT_SECONDS, until
from tests.support.scripted_nodes import Damages, Script, ScriptedCluster


@pytest.fixture
def plan(tmp_path: Path) -> RunPlan:
    profile = write_fake_profile(tmp_path)
    plan = plan_run(RunConfig.model_validate({"profile": str(profile), "shard_size": 4}), tmp_path / "runs")
    shard_dataset(plan)
    return plan


class Run:
    """Shards that go through a pool, on threads as in a flow."""

    def __init__(
        self,
        plan: RunPlan,
        cluster: ScriptedCluster,
        nodes: int,
        *,
        beside: Sequence[RunPlan] = (),
        wait_s: float = 1e6,
        forget_oom_rung: bool = False,
    ) -> None:
        self.plan = plan
        self.said: list[str] = []
        self.pool = NodePool(
            [plan, *beside], cluster, nodes, log=self.said.append, wait_s=wait_s, forget_oom_rung=forget_oom_rung
        )
        self._shards = shard_dataset(plan)
        self._threads = ThreadPoolExecutor(16)
        self.futures: list[Future[ShardResult]] = []

    def begin(self) -> None:
        self.futures = [self._threads.submit(self.pool.generate, self.plan, shard) for shard in self._shards]

    def pump_until_done(self) -> None:
        until(lambda: self.pump() or all(future.done() for future in self.futures), "all shards are made")
        for future in self.futures:
            future.result()

    def pump(self) -> None:
        self.pool.pump(SHORT_SECONDS)

    def finish(self) -> None:
        with self.pool, self._threads:
            self.begin()
            self.pump_until_done()

    def made_by(self) -> dict[int, str]:
        """The node whose rows were published, by shard."""
        paths = [self.plan.paths.rollouts(shard.index) for shard in self._shards]
        return {index: pl.read_parquet(path)["model"][0] for index, path in enumerate(paths)}

    def heard(self, text: str) -> bool:
        self.pump()
        return any(text in said for said in self.said)


def test_every_shard_is_made_once_and_the_slow_node_gets_less(plan: RunPlan) -> None:
    slow = Script(hold=True, capacity=1)
    cluster = ScriptedCluster(slow=slow, quick=Script())
    run = Run(plan, cluster, 2)
    with run.pool, run._threads:
        workers = {worker.name: worker for worker in (cluster.workers.get(), cluster.workers.get())}
        until(lambda: run.heard("2 of 2"), "both nodes work")
        run.begin()
        until(lambda: run.pump() or sum(future.done() for future in run.futures) == 7, "all but one shard are made")
        [order] = workers["slow"].given
        workers["slow"].make(order)
        run.pump_until_done()
    assert find_remaining(plan, run._shards).to_generate == []
    assert sorted(run.made_by().values()) == ["quick"] * 7 + ["slow"]


def test_a_node_gets_the_shards_that_it_has_begun_before(plan: RunPlan) -> None:
    # a node that was lost may have begun what another went on with
    nodes = {"one": Script(capacity=8, begun=(1, 5, 7)), "two": Script(capacity=8, begun=(0, 5))}
    run = Run(plan, ScriptedCluster(**nodes), 2)
    with run.pool, run._threads:
        until(lambda: run.heard("2 of 2"), "both nodes work")
        run.begin()
        run.pump_until_done()
    made_by = run.made_by()
    assert [made_by[index] for index in (0, 1, 7)] == ["two", "one", "one"]


def test_shards_of_a_lost_node_go_to_others_and_its_late_results_are_not_taken(plan: RunPlan) -> None:
    cluster = ScriptedCluster(first=Script(hold=True))
    run = Run(plan, cluster, 2)
    with run.pool, run._threads:
        first = cluster.workers.get()
        run.begin()
        until(lambda: run.pump() or first.given, "the first node holds shards")
        held = {order.shard.index for order in first.given}
        first.silent = True
        del cluster.nodes["first"]
        until(lambda: run.heard("first is lost: it does not answer. Other nodes get its shards"), "the loss is told")
        cluster.join("second", Script())
        run.pump_until_done()
        # as after SIGCONT
        first.silent = False
        for order in first.given:
            first.make(order)
    assert set(run.made_by().values()) == {"second"}
    assert held
    assert [future.result().num_rollouts for future in run.futures] == [32] * 8


def test_messages_say_how_many_nodes_passed_their_checks_and_of_several_runs_which(plan: RunPlan) -> None:
    other = replace(plan, paths=RunPaths(root=plan.paths.root.with_name("other")))
    cluster = ScriptedCluster(one=Script(hold=True, damages=Damages(1)), two=Script(state="starting"))
    run = Run(plan, cluster, 2, beside=[other])
    with run.pool, run._threads:
        workers = {worker.name: worker for worker in (cluster.workers.get(), cluster.workers.get())}
        one, two = workers["one"], workers["two"]
        until(lambda: run.heard("one begins: 1 of 2 nodes") and two.begun, "a node begins, and another is checked")
        run.begin()
        until(lambda: run.pump() or len(one.given) == 2, "it holds shards")
        for order in list(one.given):
            one.make(order)
        told = f"of {plan.run_id} came "
        until(lambda: run.heard(f"{told}damaged from one: its") and run.heard(f"{told}from one"), "both came")
        until(lambda: run.pump() or len(one.given) > 2, "it holds more")
        one.silent = True
        del cluster.nodes["one"]
        until(lambda: any("Other nodes get" in said and plan.run_id in said for said in run.said) or run.pump(), "lost")
        two.state = "generating"
        run.pump_until_done()
    assert "two begins: 1 of 2 nodes" in run.said


def test_the_nodes_of_a_cancelled_run_have_fifteen_seconds() -> None:
    config = pytest.importorskip("ray._raylet").Config
    # a flow ends its nodes; what it could not end dies with it
    assert KILL_SECONDS + END_SECONDS < 15
    assert LIMIT_SECONDS + config.kill_worker_timeout_milliseconds() / 1000 < 15


def test_a_shard_that_comes_damaged_is_made_again(plan: RunPlan) -> None:
    run = Run(plan, ScriptedCluster(one=Script(damages=Damages(1))), 1)
    run.finish()
    assert sum("came damaged from one" in said for said in run.said) == 1
    assert find_remaining(plan, run._shards).to_generate == []


def test_a_shard_that_comes_damaged_again_and_again_ends_the_pool(plan: RunPlan) -> None:
    run = Run(plan, ScriptedCluster(one=Script(damages=Damages(1000))), 1)
    with pytest.raises(NodesLost, match=r"came damaged from one: its sha256 .* So it did 3 times"):
        run.finish()


def test_only_the_first_worker_of_a_node_forgets_its_rung(plan: RunPlan) -> None:
    cluster = ScriptedCluster(one=Script(hold=True))
    run = Run(plan, cluster, 1, forget_oom_rung=True)
    with run.pool, run._threads:
        run.begin()
        first = cluster.workers.get()
        until(lambda: run.pump() or first.given, "the first worker has shards")
        cluster.nodes["one"] = Script()
        first.silent = True
        second = cluster.workers.get()
        run.pump_until_done()
    assert [worker.order.forget_oom_rung for worker in (first, second)] == [True, False]


def test_a_cluster_that_cannot_grow_and_has_no_node_with_what_is_needed_is_refused_at_once(plan: RunPlan) -> None:
    cluster = ScriptedCluster()
    cluster.grows = False
    with pytest.raises(ConfigError, match="the profile needs one processor for it on each node, and this machine"):
        Run(plan, cluster, 1).finish()


def test_a_node_that_is_refused_leaves_its_place_to_another(plan: RunPlan) -> None:
    cluster = ScriptedCluster(old=Script(software={"vllm": "0.1"}), new=Script())
    run = Run(plan, cluster, 2)
    run.finish()
    assert set(run.made_by().values()) == {"new"}
    assert any("old does not work for this run" in said and "vllm is 0.1 there" in said for said in run.said)


@pytest.mark.parametrize(
    ("script", "error", "told"),
    [
        pytest.param(Script(software={"python": "2.7"}), ConfigError, "python is 2.7 there", id="other software"),
        pytest.param(Script(state="refused", error="PreflightFailed"), ConfigError, "fallen off", id="preflight"),
        pytest.param(Script(state="failed", error="EngineStartError"), NodesLost, "fallen off", id="no engine starts"),
        pytest.param(Script(gone=True), NodesLost, "it does not answer", id="lost again and again"),
    ],
)
def test_a_pool_without_a_node_that_can_work_gives_up(
    plan: RunPlan, script: Script, error: type[HarvestError], told: str
) -> None:
    # a node that is gone waits longer before each new start
    nodes = {f"node{number}": script for number in range(3 if script.gone else 2)}
    run = Run(plan, ScriptedCluster(**nodes), len(nodes), wait_s=2.0)
    with pytest.raises(error, match=told):
        run.finish()


def test_a_node_that_comes_and_goes_does_not_end_the_work_of_another(plan: RunPlan) -> None:
    cluster, need = ScriptedCluster(steady=Script()), Need(gpus=0)
    place = cluster.place(need, ())
    assert place.wait(SHORT_SECONDS) == ("steady",)
    roster = NodeRoster("2 nodes", [plan], lambda told: None)
    watch = NodeWatch(cluster, need, 2, 1e6, lambda told: None)
    steady = NodeAtWork(place=0, nodes=("steady",), silent_s=1.0, handle=place.start())
    assert roster.claim(steady)
    for _ in range(2 * MOST_LOSSES):
        guest = NodeAtWork(place=1, nodes=("guest",), silent_s=1.0)
        assert roster.claim(guest)
        roster.lost(guest, "it ended")
    watch.look(roster)
    roster.lost(steady, "it ended")
    with pytest.raises(NodesLost, match="nodes were lost 11 times, and no shard was finished in between"):
        watch.look(roster)


def test_a_pool_waits_for_a_node_says_for_what_and_goes_on_when_it_joins(plan: RunPlan) -> None:
    cluster = ScriptedCluster()
    run = Run(plan, cluster, 1)
    with run.pool, run._threads:
        run.begin()
        until(lambda: run.heard("waiting for 1 more of 1 nodes, each with one processor"), "it says what it waits for")
        cluster.join("late", Script())
        run.pump_until_done()
    assert set(run.made_by().values()) == {"late"}


def test_a_pool_that_gets_no_node_fails_after_the_stated_time(plan: RunPlan) -> None:
    with pytest.raises(NodesLost, match="no node of the cluster had"):
        Run(plan, ScriptedCluster(), 1, wait_s=0.0).finish()


def test_a_lost_head_ends_the_pool_and_what_was_fetched_stays(plan: RunPlan) -> None:
    cluster = ScriptedCluster(one=Script(hold=True))
    run = Run(plan, cluster, 1)
    with run.pool, run._threads:
        worker = cluster.workers.get()
        run.begin()
        until(lambda: run.pump() or worker.given, "it holds shards")
        worker.make(worker.given[0])
        until(lambda: run.pump() or any(future.done() for future in run.futures), "a shard is made")
        cluster.head_is_lost = True
        with pytest.raises(NodesLost, match="the same command resumes"):
            run.pump_until_done()
    assert len(find_remaining(plan, run._shards).to_generate) == 7
