"""Plans an engine's memory before anything is loaded: weights, reserve, KV cache, and how many sequences fit.

An engine takes minutes to load a model and then fails when the memory is too small. The plan tells this in seconds.
"""

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from profiles.engine_settings import EngineSettings
from profiles.schema import AUTO, Profile
from tasks.node.auto_batch import AutoBatch, auto_engine, choose_batch
from tasks.node.core_process import has_core_process
from tasks.node.cuda_graphs import expected_graph_share, sizes_of
from tasks.node.engine_memory import KvCache, batched_tokens, default_sequences, kv_bytes_per_token
from tasks.node.gpu_sharing import FURTHER_PROCESS_BYTES
from tasks.node.memory_budget import Budget, MemoryBudget
from tasks.node.passed_on_memory import not_counted, stated_kv_bytes
from tasks.plan.adapter_source import LoraSlots
from tasks.plan.model_shape import UnknownLayoutError
from tasks.units import GIB, format_gib


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """The memory of one engine, per GPU; of the host for a CPU engine. A figure is None when it is unknown."""

    profile: str
    """The profile's name."""
    device: str
    """"cuda" or "cpu"."""
    tensor_parallel_size: int
    """Number of GPUs of each pipeline stage of the engine."""
    max_model_len: int
    """Most tokens of a sequence."""
    expected_length: int
    """Tokens of a mean prompt plus completion."""
    in_flight: int
    """Sequences in one question batch: questions x arms x samples; of a chosen batch, those at first."""
    running: int
    """Sequences of ``in_flight`` that run at once under max_num_seqs."""
    pipeline_parallel_size: int = 1
    """Number of the engine's stages. The figures are of the GPU that holds the most."""
    nodes_per_replica: int = 1
    """Nodes that hold the engine, each with as many of its GPUs."""
    replicas_per_gpu: int = 1
    """Engines that share each GPU. The other figures are of one of them."""
    process_bytes: int | None = None
    """Memory that each further engine on a GPU holds beside the plan, in bytes, an estimate; None when none shares."""
    device_bytes: int | None = None
    """Total memory, in bytes."""
    engine_bytes: int | None = None
    """Memory that the engine may take in all, in bytes."""
    weight_bytes: int | None = None
    """Weights, in bytes."""
    reserve_bytes: int | None = None
    """Memory beside weights and KV cache, in bytes; None also when a CPU profile sets the size of its KV cache."""
    kv_budget_bytes: int | None = None
    """Memory for the KV cache, in bytes."""
    kv_bytes_per_token: int | None = None
    """Size of one token in the KV cache, in bytes."""
    kv_tokens: int | None = None
    """Tokens that the KV cache holds, as vLLM counts them."""
    sequences_at_max_len: int | None = None
    """Sequences of ``max_model_len`` tokens that the KV cache holds."""
    sequences_at_expected: int | None = None
    """Sequences of ``expected_length`` tokens that the KV cache holds."""
    batch_fits: bool | None = None
    """Whether the KV cache holds ``running`` sequences of ``expected_length`` tokens."""
    auto: AutoBatch | None = None
    """The chosen question batch, and why; None when the profile states it."""
    step_tokens: int | None = None
    """Most tokens of an engine step; None for a CPU engine."""
    graph_tokens: int | None = None
    """Tokens of the largest step that runs in a CUDA graph, 0 without graphs; None for a CPU engine."""
    expected_graph_share: float | None = None
    """Expected share (of 1) of the steps that run in a CUDA graph; None for a CPU engine."""
    core_process: bool | None = None
    """Whether the engine core has a process of its own, beside the replica's; None for another engine than vLLM."""
    is_estimate: bool = False
    """Whether ``kv_budget_bytes`` is an estimate; vLLM measures it when it starts."""
    unknown: tuple[str, ...] = ()
    """The reasons for missing figures."""
    not_counted: tuple[str, ...] = ()
    """Settings that move memory in a way that the plan does not know, and how far off it may be; a sentence each."""
    problems: tuple[str, ...] = ()
    """Settings that cannot work."""
    doubts: tuple[str, ...] = ()
    """Settings that do not work by the estimate."""


def plan_memory(
    profile: Profile,
    model_path: Path,
    *,
    arms: int = 1,
    samples: int = 1,
    expected_length: int | None = None,
    prompt_length: float | None = None,
    max_tokens: int | None = None,
    gpu_bytes: int | None = None,
    gpu_name: str = "",
    lora: LoraSlots | None = None,
) -> MemoryPlan:
    """The memory plan of ``profile`` with the model in ``model_path``. It loads no weights.

    ``expected_length`` is the mean prompt plus completion in tokens, ``prompt_length`` that of the prompt alone, and
    ``max_tokens`` the longest completion; without them sequences count as max_model_len long. ``gpu_bytes`` is the
    total memory of a GPU as CUDA counts it; its default is the profile's expect.gpu_memory_gib. ``lora`` is the room
    for adapters. Raises ConfigError when the model's files cannot be read.
    """
    engine = profile.engine
    expected_length = min(expected_length or engine.max_model_len, engine.max_model_len)
    if gpu_bytes is None and profile.expect.gpu_memory_gib is not None:
        gpu_bytes = int(profile.expect.gpu_memory_gib * GIB)
    gpu_name = gpu_name or profile.expect.gpu_name or ""
    memory, unknown = None, ""
    try:
        memory = MemoryBudget(profile, model_path, gpu_bytes, gpu_name, lora)
    except UnknownLayoutError as error:
        unknown = f"cannot tell weights per GPU or KV cache: {error}"
    auto = None
    if profile.question_batch_size == AUTO:
        auto = choose_batch(
            profile,
            rollouts_per_question=arms * samples,
            prompt=prompt_length or 0.0,
            max_tokens=engine.max_model_len if prompt_length is None or max_tokens is None else max_tokens,
            default_sequences=default_sequences(gpu_bytes or 0, gpu_name),
            cache=lambda settings: None if memory is None else memory.cache(settings),
        )
        engine, in_flight = auto_engine(profile, auto.sequences), auto.first_sequences
    else:
        in_flight = profile.question_batch_size * arms * samples
    plan = MemoryPlan(
        profile=profile.name,
        device=profile.expect.device,
        tensor_parallel_size=engine.tensor_parallel_size,
        pipeline_parallel_size=engine.pipeline_parallel_size,
        nodes_per_replica=engine.nodes_per_replica,
        max_model_len=engine.max_model_len,
        expected_length=expected_length,
        in_flight=in_flight,
        running=min(in_flight, engine.sequences),
        replicas_per_gpu=profile.replicas_per_gpu,
        process_bytes=FURTHER_PROCESS_BYTES if profile.replicas_per_gpu > 1 else None,
        auto=auto,
        core_process=has_core_process(engine, on_gpu=profile.expect.device == "cuda", environment=os.environ)
        if engine.backend == "vllm"
        else None,
    )
    if profile.expect.device == "cuda":
        most_tokens = batched_tokens(engine, gpu_bytes or 0, gpu_name)
        plan = _with_steps(plan, engine, most_tokens, per_question=arms * samples, prompt=prompt_length or 0.0)
    if memory is None:
        return replace(plan, unknown=(unknown,))
    return _with_memory(plan, memory, engine, memory.shape.problems(profile.engine))


def _with_steps(
    plan: MemoryPlan, engine: EngineSettings, most_tokens: int, *, per_question: int, prompt: float
) -> MemoryPlan:
    share = expected_graph_share(
        engine,
        most_tokens,
        running=plan.running,
        per_question=per_question,
        prompt=prompt,
        completion=plan.expected_length - prompt,
    )
    largest = max(sizes_of(engine), default=0)
    return replace(plan, step_tokens=most_tokens, graph_tokens=largest, expected_graph_share=share)


def _with_memory(
    plan: MemoryPlan, memory: MemoryBudget, engine: EngineSettings, problems: tuple[str, ...]
) -> MemoryPlan:
    budget, cache, weights = memory.divide(engine), memory.cache(engine), memory.weight_bytes
    unknown = []
    if weights is None:
        unknown.append("cannot tell the weights: there are no safetensors files to measure")
    if budget.device_bytes is None:
        unknown.append("cannot tell the KV cache: the GPU's memory is unknown")
    plan = replace(
        plan,
        weight_bytes=weights,
        kv_bytes_per_token=kv_bytes_per_token(memory.shape, engine) + memory.draft.kv_bytes_per_token,
        not_counted=tuple(
            not_counted(engine, draft_unknown=memory.draft.unknown, quantized_files=memory.shape.quantized)
        ),
        unknown=tuple(unknown),
        problems=problems,
        **asdict(budget),
    )
    if cache is None or budget.device_bytes is None:
        return plan
    plan = replace(plan, doubts=_stated_cache_fits(plan, engine))
    return _with_cache(plan, cache, certain=_weights_exceed(budget, weights) or not budget.is_estimate)


def _weights_exceed(budget: Budget, weights: int | None) -> bool:
    # an estimate must not stop a run that vLLM can start; the weights are exact
    return weights is not None and budget.engine_bytes is not None and weights >= budget.engine_bytes


def _stated_cache_fits(plan: MemoryPlan, engine: EngineSettings) -> tuple[str, ...]:
    """Return a doubt when a stated KV cache, which vLLM allocates without measuring, leaves too little for the rest."""
    stated = stated_kv_bytes(engine)
    if stated is None or plan.weight_bytes is None or plan.reserve_bytes is None:
        return ()
    each = plan.weight_bytes + plan.reserve_bytes + stated
    needed = plan.replicas_per_gpu * each + (plan.replicas_per_gpu - 1) * (plan.process_bytes or 0)
    if needed <= (plan.device_bytes or 0):
        return ()
    return (
        f"kv_cache_memory_bytes is {format_gib(stated, 2)}: with weights and activations {format_gib(needed)} of the "
        f"{format_gib(plan.device_bytes or 0)} are needed. Lower it, or leave it out and give gpu_memory_utilization",
    )


def _with_cache(plan: MemoryPlan, cache: KvCache, *, certain: bool) -> MemoryPlan:
    at_expected = cache.sequences(plan.expected_length)
    plan = replace(
        plan,
        kv_tokens=cache.tokens,
        sequences_at_max_len=cache.sequences(plan.max_model_len),
        sequences_at_expected=at_expected,
        batch_fits=at_expected >= plan.running,
    )
    if plan.sequences_at_max_len:
        return plan
    each = ""
    if plan.replicas_per_gpu > 1:
        each = (
            f"{plan.replicas_per_gpu} engines share each GPU of {format_gib(plan.device_bytes or 0)}. Each may take "
            f"{format_gib(plan.engine_bytes or 0, 2)}, and its weights are {format_gib(plan.weight_bytes or 0, 2)}: "
        )
    message = (
        f"{each}not even one sequence of {plan.max_model_len} tokens fits: {format_gib(plan.kv_budget_bytes or 0, 2)} "
        "are left for the KV cache. Lower "
        f"{'replicas_per_gpu or ' if each else ''}max_model_len, or give the engine more memory or GPUs"
    )
    if certain:
        return replace(plan, problems=(*plan.problems, message))
    return replace(plan, doubts=(*plan.doubts, message))
