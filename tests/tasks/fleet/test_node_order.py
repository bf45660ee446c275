"""A node plans the runs of its order again, and refuses what would give other rollouts."""

import io
import pickle
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import ConfigError
from tasks.fleet.node_order import NodeOrder, accept_order, differences, software
from tasks.plan.checkpoint_plans import plan_checkpoints
from tasks.plan.policies import plan_policies
from tasks.plan.run_config import config_from_parameters
from tasks.plan.run_plan import RunPlan, plan_run
from tests.support.lora_adapters import merge_adapter, write_adapter


def plans_of(folder: Path, **more: Any) -> tuple[RunPlan, ...]:
    given = {"profile": "cpu-demo", "questions": 4, **more}
    return plan_policies(plan_run(config_from_parameters(given), folder / "runs"))


def sent(order: NodeOrder) -> NodeOrder:
    """As it comes to another process."""
    there: NodeOrder = pickle.loads(pickle.dumps(order))
    return there


def test_a_node_plans_the_same_runs_in_a_place_of_its_own(tmp_path: Path) -> None:
    adapters = [str(write_adapter(tmp_path / name, seed=seed)) for seed, name in enumerate("ab")]
    plans = plans_of(tmp_path, adapters=adapters)
    accepted = accept_order(sent(NodeOrder.of(plans)), tmp_path / "scratch")
    assert [(plan.run_id, plan.fingerprint) for plan in accepted] == [(plan.run_id, plan.fingerprint) for plan in plans]
    assert [plan.adapter for plan in accepted] == [plan.adapter for plan in plans]
    assert {plan.paths.root.parent for plan in accepted} == {tmp_path / "scratch"}
    assert accepted[0].lora == plans[0].lora
    # the model's own run and one adapter's were finished before
    [left] = accept_order(NodeOrder.of(plans[2:]), tmp_path / "scratch")
    assert (left.run_id, left.fingerprint, left.adapter) == (plans[2].run_id, plans[2].fingerprint, plans[2].adapter)


def test_a_node_plans_the_runs_of_several_checkpoints(tmp_path: Path) -> None:
    adapters = [write_adapter(tmp_path / f"lora-{seed}", seed=seed) for seed in (1, 2)]
    models = [str(merge_adapter(adapter, tmp_path / f"step-{number}")) for number, adapter in enumerate(adapters)]
    [first] = plans_of(tmp_path, model=models[0])
    plans = plan_checkpoints(first, models)
    accepted = accept_order(sent(NodeOrder.of(plans)), tmp_path / "scratch")
    assert [(plan.run_id, plan.model.path) for plan in accepted] == [(plan.run_id, plan.model.path) for plan in plans]


def test_all_that_an_order_is_read_with_is_compared_before(tmp_path: Path) -> None:
    classes: list[type] = []

    class Reader(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            found = super().find_class(module, name)
            classes.extend(found.__mro__ if isinstance(found, type) else ())
            return found

    Reader(io.BytesIO(pickle.dumps(NodeOrder.of(plans_of(tmp_path))))).load()
    packages = {found.__module__.partition(".")[0] for found in classes} - sys.stdlib_module_names
    # their code is compared too
    assert packages - {"profiles", "tasks"} == {"polars", "pydantic"} <= software().keys()


@pytest.mark.parametrize(
    ("section", "change", "told"),
    [
        pytest.param("comparable", {"model": "0123"}, r"model is \w+ there and 0123 here", id="weights"),
        pytest.param("comparable", {"tokenizer": "0123"}, r"tokenizer is \w+ there and 0123 here", id="tokenizer"),
        pytest.param("tested", {"versions": {"torch": "9"}}, r"versions.torch is \S+ there and 9 here", id="torch"),
    ],
)
def test_a_node_that_differs_is_refused_with_the_difference(
    tmp_path: Path, section: str, change: dict[str, Any], told: str
) -> None:
    [plan] = plans_of(tmp_path)
    planned = replace(plan, **{section: getattr(plan, section) | change})
    with pytest.raises(ConfigError, match=told):
        accept_order(NodeOrder.of([planned]), tmp_path / "scratch")


def test_a_node_without_an_adapter_is_refused(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "a")
    order = NodeOrder.of(plans_of(tmp_path, adapters=[str(adapter)]))
    adapter.rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="adapter"):
        accept_order(order, tmp_path / "scratch")


@pytest.mark.parametrize(
    ("there", "here", "told"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 2}, ["a is 1 there and 2 here"]),
        ({}, {"a": 2}, ["a is missing there and 2 here"]),
        ({"v": {"a": 1, "b": 2}}, {"v": {"a": 1, "b": 3}}, ["v.b is 2 there and 3 here"]),
    ],
)
def test_differences_name_what_differs(there: dict[str, Any], here: dict[str, Any], told: list[str]) -> None:
    assert differences(there, here) == told
