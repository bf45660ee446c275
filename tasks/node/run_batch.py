"""The question batch that a run gets on this node."""

from profiles.schema import AUTO
from tasks.node.auto_batch import AutoBatch
from tasks.node.gpu_reading import NvmlReader
from tasks.node.gpu_selection import read_used_gpus, smallest_gpu
from tasks.node.memory_plan import plan_memory
from tasks.node.nvml import PynvmlReader
from tasks.node.prompt_check import find_prompts
from tasks.plan.run_plan import RunPlan


def choose_run_batch(run: RunPlan, *, reader: NvmlReader | None = None) -> AutoBatch | None:
    """Return the batch that is chosen for ``run``, as preflight shows it; None when the run states its batch.

    Raises ConfigError when the model's files cannot be read.
    """
    if run.profile.question_batch_size != AUTO:
        return None
    prompts = find_prompts(run).lengths
    smallest = smallest_gpu(read_used_gpus(run.profile, reader or PynvmlReader()))
    plan = plan_memory(
        run.profile,
        run.model.path,
        arms=len(run.arms.arms),
        samples=run.config.sampling.samples_per_arm,
        prompt_length=None if prompts is None else prompts.mean,
        max_tokens=run.config.sampling.max_tokens,
        gpu_bytes=None if smallest is None else (smallest.memory_total or 0) - (smallest.memory_reserved or 0),
        gpu_name="" if smallest is None else smallest.name or "",
        lora=run.lora,
    )
    return plan.auto
