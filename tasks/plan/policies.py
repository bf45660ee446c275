"""Finds the policies of a collection: each is a run of its own, and all share the engines of a node."""

from collections.abc import Sequence
from dataclasses import replace

from tasks.errors import ConfigError
from tasks.plan.adapter_source import AdapterSource, LoraSlots, find_adapters, with_adapter
from tasks.plan.fingerprint import fingerprint
from tasks.plan.run_plan import RunPlan, folder_for, name_of_run, slug
from tasks.records import RunPaths

AUTO_BASELINE = "auto"
"""The baseline name that asks for a generated sample."""


def plan_policies(plan: RunPlan) -> tuple[RunPlan, ...]:
    """Return the plans of the runs that ``plan`` asks for: of the model itself, and of each adapter beside it.

    They differ in their policies only. The model's own is the run that it would be without adapters. Raises ConfigError
    when an adapter cannot be used.
    """
    names = plan.config.adapters
    if not names:
        return (plan,)
    on_gpu = plan.profile.expect.device == "cuda"
    if on_gpu and plan.profile.engine.dtype == "float32":
        # _lora_shrink in vllm/lora/ops/triton_ops/lora_shrink_op.py
        raise ConfigError(
            "dtype is float32 and adapters are given, which vLLM adds in half precision only on a GPU. Give dtype "
            "bfloat16 or float16, or merge each adapter into the model and collect it by itself"
        )
    adapters = find_adapters(names, plan.model)
    lora = LoraSlots.of(adapters, on_gpu=on_gpu)
    base = replace(plan, config=plan.config.model_copy(update={"adapters": ()}), lora=lora)
    return (base, *(_beside(base, adapter) for adapter in adapters))


def check_baselines(plans: Sequence[RunPlan], baseline: str | None) -> None:
    """Raise ConfigError when several policies are to be compared with a run that is only of one."""
    if len(plans) == 1:
        return
    if baseline not in (None, AUTO_BASELINE):
        raise ConfigError(
            f"baseline is {baseline}, which is a run of one policy, and {len(plans)} are collected. Give auto, which "
            "generates a baseline for each, or compare later: harvest diff"
        )


def _beside(base: RunPlan, adapter: AdapterSource) -> RunPlan:
    model = with_adapter(base.model, adapter)
    comparable = base.comparable | {"model": model.weights_digest[:16]}
    digest = fingerprint(comparable, base.tested, base.config.sampling)
    name = name_of_run(base.paths.run_id.rpartition("-")[0], slug(adapter.name))
    root = base.paths.root.with_name(f"{name}-{digest[:10]}")
    return replace(
        base,
        config=base.config.model_copy(update={"adapters": (str(adapter.path),)}),
        model=model,
        adapter=adapter,
        comparable=comparable,
        fingerprint=digest,
        paths=RunPaths(root=root, scores_folder=folder_for(root, base.config.scorer)),
    )
