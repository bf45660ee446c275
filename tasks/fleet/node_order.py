"""The order for a node: the planned runs, without their questions, which come shard by shard.

A node resolves model and versions for itself and compares the fingerprint, so that no node answers with other weights.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from profiles.arm_schema import ArmSet
from profiles.schema import Profile
from tasks.errors import ConfigError
from tasks.fleet.node_identity import differences
from tasks.plan.fingerprint import comparable_settings, tested_settings
from tasks.plan.model_source import find_model
from tasks.plan.policies import plan_policies
from tasks.plan.run_config import build_config
from tasks.plan.run_plan import RunPlan
from tasks.records import RunPaths

SAMPLE_QUESTIONS = 4096
"""How many questions a node gets for its preflight; enough for two batches of any engine."""


@dataclass(frozen=True, kw_only=True)
class NodeOrder:
    """What a node needs to know of the runs that it generates for. It holds no secret."""

    plans: tuple[dict[str, Any], ...]
    """The content of each run's config.json."""
    questions: bytes
    """The first questions, as a Parquet file."""

    @classmethod
    def of(cls, plans: Sequence[RunPlan]) -> "NodeOrder":
        sample = io.BytesIO()
        plans[0].questions.head(SAMPLE_QUESTIONS).write_parquet(sample)
        return cls(plans=tuple(plan.to_json() for plan in plans), questions=sample.getvalue())


def accept_order(order: NodeOrder, above: Path) -> tuple[RunPlan, ...]:
    """Return the plans of the runs on this node, in directories below ``above``.

    Raises ConfigError when this node would generate other rollouts, because its model or a version differs, or when it
    lacks the model; PreflightFailed when its disk has no room for a model of the hub.
    """
    questions = pl.read_parquet(io.BytesIO(order.questions))
    adapters = tuple(name for planned in order.plans for name in planned["config"]["adapters"])
    if not adapters:
        return tuple(_accept(planned, questions, above) for planned in order.plans)
    plan = _accept(order.plans[0], questions, above)
    plans = plan_policies(replace(plan, config=plan.config.model_copy(update={"adapters": adapters})))
    for found, planned in zip(plans, order.plans, strict=True):
        _refuse_differences(found.comparable, planned["comparable"])
    return plans


def _accept(planned: dict[str, Any], questions: pl.DataFrame, above: Path) -> RunPlan:
    config = build_config(planned["config"])
    profile = Profile.model_validate(planned["profile"])
    arms = ArmSet.model_validate({"arms": planned["arms"]})
    model = find_model(planned["model"]["name"], load_format=profile.engine.load_format)
    # this node has not all questions, so their digest comes from the plan
    dataset = {"dataset": planned["comparable"]["dataset"]}
    comparable = comparable_settings(config, arms, model, questions) | dataset
    tested = tested_settings(profile, planned["shard_size"])
    _refuse_differences(comparable | tested, planned["comparable"] | planned["tested"])
    return RunPlan(
        config=config,
        profile=profile,
        arms=arms,
        model=model,
        questions=questions,
        shard_size=planned["shard_size"],
        comparable=comparable,
        tested=tested,
        fingerprint=planned["fingerprint"],
        paths=RunPaths(root=above / planned["run_id"]),
    )


def _refuse_differences(there: dict[str, Any], here: dict[str, Any]) -> None:
    # through JSON, as a stored plan is
    if differing := differences(json.loads(json.dumps(there)), here):
        raise ConfigError(
            f"it would generate other rollouts than the run was planned for: {'; '.join(differing)}. Give every node "
            "the same model files and the same versions"
        )
