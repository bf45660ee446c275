"""Groups of scripted nodes that hold a replica each: who is at work, and what becomes of the loss or refusal of one."""

from pathlib import Path

import pytest

from tasks.errors import ConfigError, HarvestError, NodesLost
from tasks.plan.run_config import RunConfig
from tasks.plan.run_plan import RunPlan, plan_run
from tasks.plan.shards import shard_dataset
from tests.support.fake_profile import write_fake_profile
from tests.support.patience import until
from tests.support.scripted_nodes import Script, ScriptedCluster
from tests.tasks.fleet.test_node_pool import Run


@pytest.fixture
def plan(tmp_path: Path) -> RunPlan:
    return plan_of(tmp_path, nodes=2)


def plan_of(folder: Path, *, nodes: int) -> RunPlan:
    """A run whose replicas have a GPU of each of ``nodes`` nodes."""
    profile = write_fake_profile(folder)
    text = profile.read_text().replace('device = "cpu"', "gpu_count = 1\ngpu_memory_gib = 80")
    wide = f"tensor_parallel_size = {nodes}\nnodes_per_replica = {nodes}\n"
    profile.write_text(text.replace("kv_cache_space_gib = 1\n", wide))
    plan = plan_run(RunConfig.model_validate({"profile": str(profile), "shard_size": 4}), folder / "runs")
    shard_dataset(plan)
    return plan


def test_each_group_is_a_worker_and_its_first_node_generates(plan: RunPlan) -> None:
    cluster = ScriptedCluster(a=Script(), b=Script(), c=Script(), d=Script(), e=Script())
    run = Run(plan, cluster, 4)
    with run.pool, run._threads:
        until(lambda: run.heard("2 of 2 groups of 2 nodes"), "both groups work")
        run.begin()
        run.pump_until_done()
        workers = [cluster.workers.get() for _ in range(4)]
    assert {worker.name for worker in workers if worker.given} == set(run.made_by().values()) <= {"a", "c"}
    assert any("came from a+b" in said or "came from c+d" in said for said in run.said)


def test_the_engine_begins_when_every_node_is_ready(plan: RunPlan) -> None:
    cluster = ScriptedCluster(first=Script(), second=Script(state="starting"))
    run = Run(plan, cluster, 2)
    with run.pool, run._threads:
        first, second = cluster.workers.get(), cluster.workers.get()
        run.begin()
        until(lambda: run.pump() or (first.begun and second.begun), "both nodes begin")
        for _ in range(3):
            run.pump()
        assert not first.given
        second.state = "generating"
        run.pump_until_done()
    assert set(run.made_by().values()) == {"first"}


@pytest.mark.parametrize("lost", [0, 1])
def test_the_loss_of_one_node_is_that_of_the_group(plan: RunPlan, lost: int) -> None:
    cluster = ScriptedCluster(a=Script(hold=True), b=Script(hold=True))
    run = Run(plan, cluster, 2)
    with run.pool, run._threads:
        workers = [cluster.workers.get(), cluster.workers.get()]
        run.begin()
        until(lambda: run.pump() or workers[0].given, "the group holds shards")
        workers[lost].silent = True
        del cluster.nodes["ab"[lost]]
        cluster.nodes["ba"[lost]].hold = False
        told = f"a+b is lost: its node {'ab'[lost]} is gone: it does not answer. Other nodes get its shards"
        until(lambda: run.heard(told), "the loss is told")
        cluster.join("c", Script())
        run.pump_until_done()
    assert set(run.made_by().values()) <= {"a", "b", "c"} - {"ab"[lost]}


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        pytest.param(Script(software={"vllm": "0.1"}), "its software is not that of", id="software"),
        pytest.param(Script(state="refused", error="PreflightFailed"), "node bad: the GPU has fallen", id="preflight"),
    ],
)
@pytest.mark.parametrize("first", [False, True])
def test_a_node_that_does_not_suit_is_left_out_alone(plan: RunPlan, bad: Script, told: str, first: bool) -> None:
    nodes = {"bad": bad, "good": Script()} if first else {"good": Script(), "bad": bad}
    cluster = ScriptedCluster(**nodes, other=Script())
    run = Run(plan, cluster, 2)
    run.finish()
    assert any("does not work for this run" in said and told in said for said in run.said)
    assert "bad" not in run.made_by().values()


def test_nodes_with_their_files_elsewhere_do_not_hold_a_replica_together(tmp_path: Path) -> None:
    files = [{"the model": f"/{place}"} for place in ("m", "m", "elsewhere")]
    cluster = ScriptedCluster(**{f"n{number}": Script(files=each) for number, each in enumerate(files)})
    told = r"no node can generate: .*node n2: .* different paths: the model is /elsewhere"
    with pytest.raises(ConfigError, match=told):
        Run(plan_of(tmp_path, nodes=3), cluster, 3).finish()


@pytest.mark.parametrize(
    ("nodes", "error", "told"),
    [
        ({}, NodesLost, "no 2 nodes of the cluster had 1 GPU free. Run the same command when there are; it resumes"),
        ({"one": Script()}, NodesLost, "no 2 nodes of the cluster had 1 GPU free"),
        (
            {"one": Script(), "bad": Script(state="refused", error="PreflightFailed")},
            ConfigError,
            "no node can generate: .*node bad: the GPU has fallen",
        ),
    ],
)
def test_a_pool_without_a_whole_group_gives_up(
    plan: RunPlan, nodes: dict[str, Script], error: type[HarvestError], told: str
) -> None:
    with pytest.raises(error, match=told):
        Run(plan, ScriptedCluster(**nodes), 2, wait_s=0.0).finish()
