"""Several checkpoints on the same replicas: real replica processes, with a fake engine in them."""

import shutil
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from profiles.load import DEMO_MODEL
from tasks.plan.model_source import find_model
from tasks.plan.policies import plan_policies
from tasks.plan.run_plan import RunPlan, with_model
from tests.support.fake_engines import ReloadingEngine
from tests.support.lora_adapters import write_adapter
from tests.tasks.generation.test_replica_pool import Outcome, generate, make_plan

pytestmark = pytest.mark.slow

BACKEND = "tests.support.fake_engines:ReloadingEngine"


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARVEST_CACHE_DIR", str(tmp_path / "caches"))
    monkeypatch.setenv("FAKE_LOADS", str(tmp_path / "loads"))


def make_plans(folder: Path, *, backend: str = BACKEND, replicas: int = 1) -> list[RunPlan]:
    plan = make_plan(folder, backend=backend, replicas=replicas)
    plan = replace(plan, questions=plan.questions.head(12))
    models = [shutil.copytree(DEMO_MODEL, folder / f"step-{step}") for step in (1, 2, 3)]
    for model in models:
        # so that each has a digest of its own
        (model / "config.json").write_text((model / "config.json").read_text() + "\n" * int(model.name[-1]))
    return [with_model(plan, str(model)) for model in models]


def check(plans: list[RunPlan], outcome: Outcome) -> None:
    """Every rollout was made with the weights of its run."""
    assert outcome.error is None
    for plan in plans:
        rows = pl.read_parquet(plan.paths.root / "rollouts" / "*.parquet")
        assert rows.height == plan.num_rollouts
        assert set(rows["completion_ids"].explode()) == {ReloadingEngine.token_of(plan.model.path)}
        assert set(rows["model"]) == {plan.model.name}


def loads(folder: Path) -> list[str]:
    """What the engines loaded, in order, and by the number of the engine."""
    lines = [line.split() for line in (folder / "loads").read_text().splitlines()]
    numbers = {pid: number for number, pid in enumerate(dict.fromkeys(pid for _, _, pid in lines))}
    return [f"{numbers[pid]} {what} {name}" for what, name, pid in lines]


def test_one_engine_serves_the_checkpoints_one_after_the_other(tmp_path: Path) -> None:
    plans = make_plans(tmp_path)
    outcome = generate(*plans)
    check(plans, outcome)
    assert loads(tmp_path) == ["0 start step-1", "0 load step-2", "0 load step-3"]
    assert [event.message for event in outcome.events if event.kind == "reloaded"]
    assert outcome.pool.restarts == 0


def test_an_engine_that_refuses_is_replaced_without_counting_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_REFUSES", "step-2")
    plans = make_plans(tmp_path)
    outcome = generate(*plans, retry=True)
    check(plans, outcome)
    assert loads(tmp_path) == ["0 start step-1", "1 start step-2", "1 load step-3"]
    assert outcome.pool.restarts == 0
    (told,) = [event.message for event in outcome.events if event.kind == "renewed"]
    assert told == "replica 0 starts a new engine for the next weights: these weights are refused"


def test_an_engine_without_load_weights_starts_anew_for_each_checkpoint(tmp_path: Path) -> None:
    plans = make_plans(tmp_path, backend="tests.support.fake_engines:FakeEngine")[:2]
    outcome = generate(*plans, retry=True)
    assert outcome.error is None
    assert outcome.pool.restarts == 0
    assert sum(event.kind == "renewed" for event in outcome.events) == 1
    assert all(len(list(plan.paths.root.glob("rollouts/*.parquet"))) == plan.num_shards for plan in plans)


def test_a_killed_replica_starts_again_with_the_weights_that_are_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_DIES_AT", "step-2")
    plans = make_plans(tmp_path)
    outcome = generate(*plans, retry=True)
    check(plans, outcome)
    assert loads(tmp_path)[:3] == ["0 start step-1", "0 load step-2", "0 died step-2"]
    # step-1 is due when the file of its last shard, which is in the journal, was not published yet
    assert loads(tmp_path)[3] in ("1 start step-1", "1 start step-2")
    assert loads(tmp_path)[-1] == "1 load step-3"
    assert outcome.pool.restarts == 1


def test_replicas_may_have_the_weights_of_different_checkpoints(tmp_path: Path) -> None:
    plans = make_plans(tmp_path, replicas=2)
    check(plans, generate(*plans))


@pytest.mark.parametrize("number", [0, 1], ids=["at the start", "reloaded"])
def test_weights_that_changed_since_the_run_was_planned_are_refused(tmp_path: Path, number: int) -> None:
    plans = make_plans(tmp_path)
    path = plans[number].model.path
    change_last_byte(path / "model.safetensors")
    assert find_model(str(path)).weights_digest != plans[number].model.weights_digest
    outcome = generate(*plans)
    assert outcome.error is not None
    assert f"the weights in {path} have changed since the run was planned" in str(outcome.error)
    assert not list(plans[number].paths.root.glob("rollouts/*.parquet"))


def test_an_adapter_that_changed_since_the_run_was_planned_is_refused(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, backend="tests.support.fake_engines:AdapterEngine")
    lora = write_adapter(tmp_path / "lora")
    config = plan.config.model_copy(update={"adapters": (str(lora),)})
    plans = plan_policies(replace(plan, config=config, questions=plan.questions.head(12)))
    change_last_byte(lora / "adapter_model.safetensors")
    outcome = generate(*plans)
    assert outcome.error is not None
    assert f"or the adapter in {lora} have changed since the run was planned" in str(outcome.error)
    assert not list(plans[1].paths.root.glob("rollouts/*.parquet"))


def change_last_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
