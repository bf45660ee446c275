"""Replicas that share a GPU, with real replica processes and fake engines in them."""

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from tasks.generation.gpu_neighbours import GpuNeighbours
from tasks.generation.oom_ladder import build_ladder
from tasks.generation.replica_pool import ReplicaPool
from tasks.generation.replica_supervisor import ReplicaSupervisor
from tasks.plan.prompts import request_seed
from tasks.plan.run_plan import RunPlan
from tasks.units import GIB
from tests.tasks.generation.test_replica_pool import generate, make_plan

pytestmark = pytest.mark.slow


def shared_plan(folder: Path, backend: str, *, replicas: int = 2) -> RunPlan:
    backend = f"tests.support.fake_engines:{backend}"
    return make_plan(folder, backend=backend, replicas=replicas, per_gpu=2, device="cuda")


def read_rollouts(plan: RunPlan) -> pl.DataFrame:
    rows = pl.read_parquet(plan.paths.root / "rollouts" / "*.parquet")
    assert rows.select("example_id", "arm_id", "sample_index").n_unique() == rows.height == plan.num_rollouts
    return rows


def test_engines_on_a_gpu_start_one_after_the_other_and_survive_a_death_of_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = tmp_path / "gate"
    monkeypatch.setenv("HARVEST_CACHE_DIR", str(tmp_path / "caches"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    monkeypatch.setenv("FAKE_GATE", str(gate))
    monkeypatch.setenv("FAKE_START_SECONDS", "0.3")
    plan = shared_plan(tmp_path, "GatedEngine", replicas=4)
    starting: set[tuple[int, ...]] = set()
    killed: list[int] = []

    def watch(pool: ReplicaPool) -> None:
        status = pool.status()
        starting.add(tuple(replica.index for replica in status if not replica.ready))
        if sum(replica.ready for replica in status) < 4:
            return
        if killed:
            # a process does not end at once
            if len(list(plan.paths.logs.iterdir())) == 6:
                gate.touch()
            return
        for index in (0, 1):
            record = json.loads((plan.paths.state / f"replica-{index}.pid.json").read_text())
            killed.append(record["processes"][0]["pid"])
            os.kill(killed[-1], signal.SIGKILL)

    outcome = generate(plan, watch=watch, retry=True)
    assert outcome.error is None
    assert outcome.pool.restarts == 2
    rows = read_rollouts(plan)
    assert rows["error"].null_count() == rows.height
    assert set(rows["engine_version"]) <= {"fake on 5", "fake on 7"}
    assert len(list(plan.paths.logs.iterdir())) == 6
    # the two GPUs do not wait for each other
    assert {(0, 2), (0, 3), (1, 2), (1, 3)} & starting
    assert not [indices for indices in starting if {0, 1} <= {*indices} or {2, 3} <= {*indices}]


@pytest.mark.parametrize(("gpu_bytes", "at_once"), [(80 * GIB, True), (None, False)])
def test_engines_start_at_once_when_the_size_of_their_caches_is_known(
    tmp_path: Path, gpu_bytes: int | None, at_once: bool
) -> None:
    plan = make_plan(tmp_path, backend="vllm", replicas=2, per_gpu=2, device="cuda")
    first, second = (ReplicaSupervisor(index, ["0"], plan, gpu_bytes=gpu_bytes) for index in range(2))
    neighbours = GpuNeighbours([first, second], print)
    rungs = build_ladder(plan.profile, plan.rollouts_per_question)
    starting: Any = SimpleNamespace(ready=False, rung=0)
    first.process = starting
    assert neighbours.may_start(second, rungs[0]) == at_once
    # once memory ran out, engines measure again
    assert not neighbours.may_start(second, rungs[1])
    starting.ready = True
    assert neighbours.may_start(second, rungs[1])


def test_a_request_that_ends_all_engines_on_its_gpu_is_found_and_no_other_is_blamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = shared_plan(tmp_path, "SharedFateEngine")
    poison = request_seed(0, plan.questions["example_id"][3], plan.arms.arms[2].id, 0)
    monkeypatch.setenv("POISON_SEEDS", str(poison))
    monkeypatch.setenv("FAULTS", str(tmp_path / "faults"))
    outcome = generate(plan, retry=True)
    assert outcome.error is None
    rows = read_rollouts(plan)
    assert rows.filter(pl.col("error").is_not_null())["seed"].to_list() == [poison]
    assert outcome.pool.restarts >= 2


def test_a_replica_without_memory_beside_its_neighbour_retires(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIRST_ENGINE", str(tmp_path / "first"))
    monkeypatch.setenv("FAKE_GATE", str(tmp_path / "gate"))
    monkeypatch.setenv("FAKE_HOLD_AFTER", "10")
    plan = shared_plan(tmp_path, "LonelyEngine")

    def watch(pool: ReplicaPool) -> None:
        # the second engine has tried, and the first has not yet made all rollouts
        if len(list(plan.paths.logs.glob("replica-1-*.log"))) == 1 and len(pool.status()) == 1:
            (tmp_path / "gate").touch()

    outcome = generate(plan, watch=watch, retry=True)
    assert outcome.error is None
    assert read_rollouts(plan)["error"].null_count() == plan.num_rollouts
    (event,) = [event for event in outcome.events if event.kind == "retired"]
    assert "replica 1 found no memory beside the others on its GPU" in event.message
    assert (outcome.pool.rung.index, len(list(plan.paths.logs.iterdir()))) == (0, 2)


def test_an_oom_of_one_engine_halves_the_batch_once_for_all_on_its_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMORY_LIMIT", "30")
    plan = shared_plan(tmp_path, "CrowdedEngine")
    outcome = generate(plan, retry=True)
    assert outcome.error is None
    assert read_rollouts(plan)["error"].null_count() == plan.num_rollouts
    assert [(change.from_rung, change.to_rung) for change in outcome.pool.rung_changes] == [(0, 1)]
