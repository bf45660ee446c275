"""The runs of a collection with adapters: the model's own, as ever, and one for each adapter."""

import datetime
import json
from pathlib import Path

from tasks.comparison.mismatch_request import not_recomputed
from tasks.generation.lora_spec import LoraSpec
from tasks.generation.policy import policies_of
from tasks.node.memory_plan import plan_memory
from tasks.plan.placeholders import fill_placeholders
from tasks.plan.policies import plan_policies
from tasks.plan.run_config import RunConfig, config_from_parameters, parameters_of_config
from tasks.plan.run_directory import open_run, reproduce_command
from tasks.plan.run_plan import plan_run
from tasks.results.finished_run import unfinished_name
from tests.support.lora_adapters import write_adapter

PARAMETERS = {"profile": "cpu-demo", "questions": 4}


def test_the_model_itself_is_the_run_that_it_is_without_adapters(tmp_path: Path) -> None:
    alone = plan_run(config_from_parameters(PARAMETERS), tmp_path)
    assert plan_policies(alone) == (alone,)
    adapters = [str(write_adapter(tmp_path / name, seed=seed)) for seed, name in enumerate(("Math v1", "b"))]
    plans = plan_policies(plan_run(config_from_parameters(PARAMETERS | {"adapters": adapters}), tmp_path))
    base, *others = plans
    assert (base.run_id, base.fingerprint) == (alone.run_id, alone.fingerprint)
    assert base.to_json() == alone.to_json()
    stem = alone.run_id.rpartition("-")[0]
    assert [plan.run_id for plan in others] == [
        f"{stem}-math-v1-{others[0].fingerprint[:10]}",
        f"{stem}-b-{others[1].fingerprint[:10]}",
    ]
    assert len({plan.fingerprint for plan in plans}) == 3
    # the company in the engine does not change who a run is
    (_, only) = plan_policies(plan_run(config_from_parameters(PARAMETERS | {"adapters": adapters[1:]}), tmp_path))
    assert (only.run_id, only.fingerprint) == (others[1].run_id, others[1].fingerprint)


def test_a_run_with_an_adapter_tells_it_and_how_to_make_it_again(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "lora", rank=12)
    given = {**PARAMETERS, "adapters": [str(adapter)], "name": "mine"}
    _, plan = plan_policies(plan_run(config_from_parameters(given), tmp_path / "runs"))
    assert plan.run_id == f"mine-lora-{plan.fingerprint[:10]}"
    open_run(plan)
    stored = json.loads(plan.paths.config.read_text())
    assert stored["model"]["name"] == "demo+lora"
    assert stored["model"]["adapter"] == plan.adapter.to_json()  # type: ignore[union-attr]
    assert not_recomputed(stored) == ["an adapter"]
    assert parameters_of_config(stored["config"])["adapters"] == [str(adapter)]
    assert f"--adapter {adapter}" in reproduce_command(stored["config"])
    # a schedule whose name has a date goes on with what is not finished
    assert unfinished_name(plan) == "mine"
    # a configuration of an earlier release names none
    assert "adapters" not in parameters_of_config(RunConfig().model_dump(mode="json", exclude={"adapters"}))


def test_the_engine_gets_all_adapters_and_each_policy_its_own(tmp_path: Path) -> None:
    adapters = [str(write_adapter(tmp_path / f"a{seed}", seed=seed, rank=4 + 8 * seed)) for seed in range(2)]
    plans = plan_policies(plan_run(config_from_parameters(PARAMETERS | {"adapters": adapters}), tmp_path))
    policies = policies_of(plans)
    assert [policy.adapter and (policy.adapter.name, policy.adapter.number) for policy in policies] == [
        None,
        ("a0", 1),
        ("a1", 2),
    ]
    assert {policy.weights for policy in policies} == {plans[0].model.path}
    spec = LoraSpec.of(policies, plans[0].lora)
    assert spec is not None
    assert (len(spec.adapters), spec.slots, spec.rank) == (2, 3, 16)
    # a baseline of the model itself needs no room for adapters
    assert LoraSpec.of(policies[:1], plans[0].lora) is None


def test_the_room_for_adapters_counts_in_the_memory_plan(tmp_path: Path) -> None:
    adapters = [str(write_adapter(tmp_path / "lora"))]
    plan, _ = plan_policies(plan_run(config_from_parameters(PARAMETERS | {"adapters": adapters}), tmp_path))
    without = plan_memory(plan.profile, plan.model.path).weight_bytes
    room = plan_memory(plan.profile, plan.model.path, lora=plan.lora).weight_bytes
    assert without is not None
    assert room is not None
    # two slots of rank 8 in float32, over the seven projections of each of four layers
    projections = 2 * (128 + 128) + 2 * (64 + 128) + 3 * (384 + 128)
    assert room - without == 2 * 8 * 4 * projections * 4


def test_dates_and_patterns_of_adapters_are_filled_in_once(tmp_path: Path) -> None:
    for name in ("2026-03-09/step-10", "2026-03-09/step-9", "other"):
        write_adapter(tmp_path / name)
    given = {"adapters": [f"{tmp_path}/{{date}}/step-*", f"{tmp_path}/other"]}
    filled = fill_placeholders(given, datetime.date(2026, 3, 9))
    assert filled == {
        "adapters": [f"{tmp_path}/{name}" for name in ("2026-03-09/step-9", "2026-03-09/step-10", "other")]
    }
    assert fill_placeholders(filled, datetime.date(2026, 3, 10)) == filled
