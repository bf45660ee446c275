"""The earlier run that is nearest to a planned one, by the rule in ``tasks/results/nearness.py``."""

from pathlib import Path
from typing import Any

import pytest

from tasks.results.earlier_runs import read_earlier
from tasks.results.nearness import nearest_lengths, nearest_speed
from tests.support.earlier_runs import HERE, planned, session, write_earlier

OTHER_WEIGHTS: dict[str, Any] = {"comparable": {"model": "other"}}
OTHER_ARMS: dict[str, Any] = {"comparable": {"arms": "other"}}
OTHER_DATASET: dict[str, Any] = {"config": {"dataset": {"path": "openai/gsm8k"}}}
OTHER_SAMPLING: dict[str, Any] = {"comparable": {"sampling": {"temperature": 0.0}}}
OTHER_ENGINE: dict[str, Any] = {"tested": {"max_num_batched_tokens": 17}}


@pytest.mark.parametrize(
    ("nearer", "farther"),
    [
        ({**OTHER_ARMS, **OTHER_DATASET}, {**OTHER_WEIGHTS, "model_path": "itself"}),
        ({**OTHER_DATASET, **OTHER_SAMPLING}, OTHER_ARMS),
        (OTHER_SAMPLING, OTHER_DATASET),
        ({}, OTHER_SAMPLING),
        ({"changed": 50}, {"rollouts": 2}),
        ({"config": {"dataset": {"path": "demo", "questions": 2}}}, OTHER_DATASET),
        ({}, {"changed": 50}),
    ],
)
def test_the_nearest_lengths(tmp_path: Path, nearer: dict[str, Any], farther: dict[str, Any]) -> None:
    plan = planned(tmp_path)
    for name, values, changed in (("nearer", nearer, 100), ("farther", farther, 101)):
        own = {"changed": changed, **values}
        rollouts = own.pop("rollouts", 100)
        own["model_path"] = str(plan.model.path) if own.get("model_path") == "itself" else ""
        write_earlier(plan, name, session(rollouts=rollouts), **own)
    near = nearest_lengths(plan, read_earlier(tmp_path, plan.model.tokenizer_digest))
    assert near is not None
    assert near.run.name == "nearer"


@pytest.mark.parametrize(
    "values",
    [
        OTHER_WEIGHTS,
        {"comparable": {"tokenizer": "other"}},
        {"config": {"sampling": {"max_tokens": 100, "lengths": {}}}},
    ],
)
def test_a_run_whose_lengths_tell_nothing(tmp_path: Path, values: dict[str, Any]) -> None:
    plan = planned(tmp_path)
    write_earlier(plan, "earlier", **values)
    assert nearest_lengths(plan, read_earlier(tmp_path, plan.model.tokenizer_digest)) is None


@pytest.mark.parametrize(
    ("nearer", "farther"),
    [
        ({**OTHER_ENGINE, **OTHER_ARMS}, {**OTHER_WEIGHTS, "model_path": "itself"}),
        ({"device": None, **OTHER_ARMS}, OTHER_ENGINE),
        (OTHER_ARMS, {"device": None}),
        (OTHER_SAMPLING, OTHER_ARMS),
        ({}, {"rollouts": 2}),
        # as they were made with other weights, other hardware or another way, none of these is used at any price
        ({**OTHER_ENGINE, **OTHER_ARMS, "device": None}, {"device": "NVIDIA A100"}),
        ({**OTHER_ENGINE, **OTHER_ARMS, "device": None}, {"tested": {"profile": "h100x8"}}),
        ({**OTHER_ENGINE, **OTHER_ARMS, "device": None}, {"tested": {"tensor_parallel_size": 2}}),
        ({**OTHER_ENGINE, **OTHER_ARMS, "device": None}, {"tested": {"generation": "loop"}}),
        ({**OTHER_ENGINE, **OTHER_ARMS, "device": None}, {"shared_with": ("an-adapter",)}),
        ({**OTHER_ENGINE, **OTHER_ARMS, "device": None}, {"tokens": 0}),
        ({**OTHER_ENGINE, **OTHER_ARMS, "device": None}, OTHER_WEIGHTS),
    ],
)
def test_the_nearest_speed(tmp_path: Path, nearer: dict[str, Any], farther: dict[str, Any]) -> None:
    plan = planned(tmp_path)
    for name, values in (("a-farther", farther), ("nearer", nearer)):
        own = dict(values)
        made = {key: own.pop(key) for key in ("device", "rollouts", "tokens", "shared_with") if key in own}
        own["model_path"] = str(plan.model.path) if own.get("model_path") == "itself" else ""
        write_earlier(plan, name, session(**made), **own, changed=100 + len(name))
    near = nearest_speed(plan, read_earlier(tmp_path, plan.model.tokenizer_digest), HERE)
    assert near is not None
    assert near.run.name == "nearer"


def test_a_checkpoint_beside_another_had_the_engines_by_itself(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    write_earlier(plan, "first", session(shared_with=("second",)), model_path="steps/step-9")
    write_earlier(plan, "second", session(shared_with=("first",)), model_path="steps/step-10", **OTHER_WEIGHTS)
    near = nearest_speed(plan, read_earlier(tmp_path, plan.model.tokenizer_digest), HERE)
    assert near is not None
    assert (near.run.name, near.speed.tokens_per_s) == ("first", 200.0)
