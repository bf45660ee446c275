"""Checks the node for a planned run, or for several on the same engines.

It writes preflight.json, and stops the run when a check fails.
"""

from collections.abc import Sequence

from tasks.errors import ConfigError, DamagedFile, PreflightFailed
from tasks.node.gpu_memory_release import wait_for_free_memory
from tasks.node.gpu_reading import NvmlReader
from tasks.node.gpu_selection import gpus_of_run
from tasks.node.host_checks import OutputSize, check_disk
from tasks.node.node_checks import check_node
from tasks.node.preflight_report import PreflightReport, publish_preflight
from tasks.node.prompt_check import find_prompts
from tasks.plan.model_config import read_model_config, text_config
from tasks.plan.model_shape import UnknownLayoutError, read_shape
from tasks.plan.run_plan import RunPlan
from tasks.storage.filesystems import TransferSettings
from tasks.storage.run_files import known_shards

BYTES_PER_TOKEN = 12
"""Size of a stored completion token: its id, its logprob and its text, before compression."""

BYTES_PER_ID = 6
"""Size of a token id of a sampling mask, as the journal has it."""
BYTES_PER_EXPERT = 3
USUAL_MASK = 16
"""Token ids that a token is sampled from at most, on average: prime-rl's pull request 2979 measured 8."""

USUAL_COMPLETION = 0.5
"""Expected length of a completion, as a share of max_tokens. The true length is known only after generation. Few runs
exceed this share, unless most of their answers are cut off."""

PREFLIGHT_SECONDS = 900.0
"""Time limit of the preflight: a driver that hangs answers no question about a GPU."""


def run_preflight(
    plan: RunPlan,
    upload_url: str | None,
    transfer: TransferSettings | None = None,
    *,
    reader: NvmlReader | None = None,
    beside: Sequence[RunPlan] = (),
) -> PreflightReport:
    """Check the node for ``plan``, publish preflight.json, and return the report.

    ``beside`` are the plans of other runs on the same engines; they get the same report.

    Raises PreflightFailed when a check fails, or ConfigError when the user's input is at fault.
    """
    report = check_node_for(plan, upload_url, transfer, reader=reader, beside=beside)
    for each in (plan, *beside):
        publish_preflight(report, each.paths.root)
    report.raise_if_failed()
    return report


def check_node_for(
    plan: RunPlan,
    upload_url: str | None = None,
    transfer: TransferSettings | None = None,
    *,
    reader: NvmlReader | None = None,
    beside: Sequence[RunPlan] = (),
) -> PreflightReport:
    """Return what the checks of the node for ``plan`` found; writes nothing. Raises ConfigError for bad input."""
    # the engines of a killed run end with it, and the driver frees their memory a moment later
    wait_for_free_memory(gpus_of_run(plan), reader=reader)
    prompts = find_prompts(plan)
    return check_node(
        plan.profile,
        model_path=plan.model.path,
        runs_dir=plan.paths.root.parent,
        output=output_size(plan, *beside),
        upload_url=upload_url,
        transfer=transfer,
        reader=reader,
        arms=len(plan.arms.arms),
        samples=plan.config.sampling.samples_per_arm,
        prompts=prompts,
        max_tokens=plan.config.sampling.max_tokens,
        lora=plan.lora,
    )


def check_output_fits(plan: RunPlan, *beside: RunPlan) -> None:
    """Raise PreflightFailed when the rollouts that the plans still have to make will not fit the disk.

    Takes no time. The plans differ in their policies only.
    """
    try:
        output = output_size(plan, *beside)
    except DamagedFile:
        return  # the run sets it aside, and preflight checks the disk
    check = check_disk(plan.paths.root.parent, output)
    if output.expected and check.status == "fail":
        policies = f"{1 + len(beside)} policies x " if beside else ""
        raise PreflightFailed(
            f"{policies}{plan.num_questions:,} questions x {len(plan.arms.arms)} arms x "
            f"{_samples(plan)} = {plan.most_rollouts * (1 + len(beside)):,} "
            f"rollouts. {check}"
        )


def _samples(plan: RunPlan) -> str:
    name = "max_samples_per_arm" if plan.has_rule else "samples_per_arm"
    return f"{plan.config.sampling.most_samples:,} {name}"


def check_settings(plan: RunPlan) -> None:
    """Raise ConfigError when no node can run the plan's model with its settings. A run that has begun may go on."""
    if plan.paths.config.exists():
        return
    try:
        shape = read_shape(read_model_config(plan.model.path), plan.profile.engine)
    except UnknownLayoutError:
        return
    if problems := shape.problems(plan.profile.engine):
        raise ConfigError(f"profile {plan.profile.name} cannot run {plan.model.path}: {'; '.join(problems)}")


def output_size(*plans: RunPlan) -> OutputSize:
    """Bytes that the unfinished shards of the plans' runs will take on disk."""
    most = sum(map(_most_bytes, plans))
    return OutputSize(expected=int(most * USUAL_COMPLETION), most=most)


def _most_bytes(plan: RunPlan) -> int:
    finished = len(known_shards(plan.paths.root, "rollouts"))
    questions = min(plan.num_questions, max(0, plan.num_shards - finished) * plan.shard_size)
    return (
        questions * (plan.most_rollouts // plan.num_questions) * plan.config.sampling.max_tokens * bytes_per_token(plan)
    )


def bytes_per_token(plan: RunPlan) -> int:
    """Bytes that a completion token takes on disk, with all that ``plan`` stores of it; a guess on the high side."""
    sampling = plan.config.sampling
    per_token = BYTES_PER_TOKEN * (1 + 2 * sampling.top_logprobs)
    if sampling.sampling_mask:
        per_token += BYTES_PER_ID * min(sampling.top_k, USUAL_MASK)
    if sampling.routed_experts:
        per_token += BYTES_PER_EXPERT * _experts_per_token(plan)
    return per_token


def _experts_per_token(plan: RunPlan) -> int:
    """Return how many experts of all layers together a token goes to; 0 when the model's config.json does not say."""
    config = text_config(read_model_config(plan.model.path))
    layers, experts = config.get("num_hidden_layers"), config.get("num_experts_per_tok")
    return layers * experts if isinstance(layers, int) and isinstance(experts, int) else 0
