"""Plans one resolved run on this node: its memory, its prompt lengths by the model's tokenizer, and advice.

`harvest plan` shows the result, so that a user can change settings before a run takes any GPU time.
"""

import math
from dataclasses import dataclass

from profiles.schema import Profile
from tasks.errors import ConfigError
from tasks.node.advice import Advice, AdviceInputs, give_advice
from tasks.node.gpu_reading import NvmlReader
from tasks.node.gpu_selection import read_used_gpus, smallest_gpu
from tasks.node.memory_plan import MemoryPlan, plan_memory
from tasks.node.nvml import PynvmlReader
from tasks.node.prompt_check import NO_QUESTION, find_prompts, refuse_problems
from tasks.node.prompt_lengths import PromptLengths
from tasks.plan.run_plan import RunPlan


@dataclass(frozen=True, kw_only=True)
class CapacityPlan:
    """The memory plan, prompt lengths and advice that `harvest plan` prints."""

    plan: MemoryPlan
    prompts: PromptLengths
    warnings: tuple[str, ...]
    """What the user may not have meant about prompts and answers."""
    advice: tuple[Advice, ...]


def plan_capacity(
    run: RunPlan,
    *,
    completion_length: float | None = None,
    truncation_rate: float | None = None,
    reader: NvmlReader | None = None,
) -> CapacityPlan:
    """The capacity plan of ``run`` on this node. A subprocess loads the tokenizer; no weights are. Raises ConfigError.

    ``completion_length`` (mean, in tokens) and ``truncation_rate`` (share of 1) come from a previous run. Without
    ``completion_length`` every completion counts as max_tokens long.
    """
    found = find_prompts(run)
    refuse_problems(found)
    prompts = found.lengths
    if prompts is None:  # on record of an earlier version
        raise ConfigError(NO_QUESTION)
    sampling = run.config.sampling
    expected = math.ceil(prompts.mean + (completion_length or sampling.max_tokens))
    smallest = smallest_gpu(read_used_gpus(run.profile, reader or PynvmlReader()))

    def plan(profile: Profile) -> MemoryPlan:
        return plan_memory(
            profile,
            run.model.path,
            arms=len(run.arms.arms),
            samples=sampling.samples_per_arm,
            expected_length=expected,
            prompt_length=prompts.mean,
            max_tokens=sampling.max_tokens,
            gpu_bytes=None if smallest is None else (smallest.memory_total or 0) - (smallest.memory_reserved or 0),
            gpu_name="" if smallest is None else smallest.name or "",
            lora=run.lora,
        )

    memory = plan(run.profile)
    inputs = AdviceInputs(
        profile=run.profile,
        plan=memory,
        max_tokens=sampling.max_tokens,
        prompts=prompts,
        truncation_rate=truncation_rate,
        free_bytes=None if smallest is None else smallest.memory_free,
        replan=plan,
    )
    return CapacityPlan(
        plan=memory, prompts=prompts, warnings=(*found.warnings, *run.warnings), advice=give_advice(inputs)
    )
