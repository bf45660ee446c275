"""The plans of the runs of several checkpoints, which one engine can serve."""

from collections.abc import Sequence
from typing import Any

from tasks.errors import ConfigError
from tasks.plan.model_config import read_model_config, read_model_object
from tasks.plan.model_files import read_weights
from tasks.plan.model_sampling import FILE as GENERATION_CONFIG
from tasks.plan.run_plan import RunPlan, with_model

_WHO_WROTE_IT = ("transformers_version", "_name_or_path", "use_cache")
"""Keys of config.json that change nothing."""


def plan_checkpoints(plan: RunPlan, models: str | Sequence[str]) -> tuple[RunPlan, ...]:
    """Return the plan of each of ``models``, directories of which ``plan`` has the first.

    A word instead of directories ("all", "newest") means that no pattern was given, and ``plan`` is the only one. All
    plans have the same settings, so that one engine can serve them. Raises ConfigError when a model differs from the
    first in more than its weights.
    """
    if isinstance(models, str) or len(models) < 2:
        return (plan,)
    plans = (plan, *(with_model(plan, model) for model in models[1:]))
    first = _facts(plan)
    for other in plans[1:]:
        facts = _facts(other)
        for name in (*first, *facts):
            if first.get(name) != facts.get(name):
                raise ConfigError(
                    f"{other.model.path} differs from {plan.model.path} in its {name}: {_short(facts.get(name))} and "
                    f"{_short(first.get(name))}. Checkpoints of one collection differ in their weights only. Collect "
                    "this one by itself, or give a pattern without it"
                )
    twins: dict[str, RunPlan] = {}
    for each in plans:
        # a copy of a checkpoint is the same run
        twins.setdefault(each.run_id, each)
    return tuple(twins.values())


def _facts(plan: RunPlan) -> dict[str, Any]:
    """What an engine and its prompts need of a model besides the weights, by words for it."""
    files = {"config.json": read_model_config(plan.model.path)}
    # the engine has its end tokens from there, and a run its sampling if it asks for that
    if (path := plan.model.path / GENERATION_CONFIG).exists():
        files[GENERATION_CONFIG] = read_model_object(path, missing="download the model again")
    settings = {
        f"{name} in {file}": value
        for file, values in files.items()
        for name, value in values.items()
        if name not in _WHO_WROTE_IT
    }
    tensors = {f"tensor {each.name}": (each.dtype, each.shape) for each in read_weights(plan.model.path)}
    prompts = {"tokenizer": plan.model.tokenizer_digest, "chat template": plan.model.chat_template_digest}
    return {**settings, **tensors, **prompts}


def _short(value: Any) -> str:
    return "nothing" if value is None else str(value)[:80]
