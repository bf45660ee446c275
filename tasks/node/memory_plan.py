"""Plans an engine's memory before anything is loaded: weights, reserve, KV cache, and how many sequences fit.

An engine takes minutes to load a model and then fails when the memory is too small. The plan tells this in seconds.
"""

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from profiles.schema import Profile
from tasks.node.engine_memory import KvCache, kv_bytes_per_token, kv_cache, reserve_bytes
from tasks.node.host_memory import read_host_memory
from tasks.node.weight_memory import dense_tensors, weight_bytes_per_gpu
from tasks.plan.model_files import read_model_config, read_weights
from tasks.plan.model_shape import ModelShape, UnknownLayoutError, read_shape
from tasks.units import GIB, format_gib

CPU_ENGINE_BYTES = 3 << 29
"""Resident memory of a CPU engine beside weights and KV cache: Python, torch and vLLM themselves."""


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """The memory of one engine, per GPU; of the host for a CPU engine. A figure is None when it is unknown."""

    profile: str
    """The profile's name."""
    device: str
    """"cuda" or "cpu"."""
    tensor_parallel_size: int
    """Number of GPUs of the engine."""
    max_model_len: int
    """Most tokens of a sequence."""
    expected_length: int
    """Tokens of a mean prompt plus completion."""
    in_flight: int
    """Sequences in one question batch: questions x arms x samples."""
    running: int
    """Sequences of ``in_flight`` that run at once under max_num_seqs."""
    device_bytes: int | None = None
    """Total memory, in bytes."""
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
    is_estimate: bool = False
    """Whether ``kv_budget_bytes`` is an estimate; vLLM measures it when it starts."""
    unknown: tuple[str, ...] = ()
    """The reasons for missing figures."""
    problems: tuple[str, ...] = ()
    """Settings that cannot work."""
    doubts: tuple[str, ...] = ()
    """Settings that do not work by the estimate."""


@dataclass(frozen=True, kw_only=True)
class _Budget:
    """The fields of a MemoryPlan that divide the device's memory."""

    device_bytes: int | None = None
    reserve_bytes: int | None = None
    kv_budget_bytes: int | None = None
    is_estimate: bool = False


def plan_memory(
    profile: Profile,
    model_path: Path,
    *,
    arms: int = 1,
    samples: int = 1,
    expected_length: int | None = None,
    gpu_bytes: int | None = None,
    gpu_name: str = "",
) -> MemoryPlan:
    """The memory plan of ``profile`` with the model in ``model_path``. It loads no weights.

    ``expected_length`` is the mean prompt plus completion in tokens; its default is max_model_len. ``gpu_bytes`` is the
    total memory of a GPU as CUDA counts it; its default is the profile's expect.gpu_memory_gib. Raises ConfigError when
    the model's files cannot be read.
    """
    engine = profile.engine
    in_flight = profile.question_batch_size * arms * samples
    plan = MemoryPlan(
        profile=profile.name,
        device=profile.expect.device,
        tensor_parallel_size=engine.tensor_parallel_size,
        max_model_len=engine.max_model_len,
        expected_length=min(expected_length or engine.max_model_len, engine.max_model_len),
        in_flight=in_flight,
        running=min(in_flight, engine.max_num_seqs),
    )
    try:
        shape = read_shape(read_model_config(model_path), engine)
    except UnknownLayoutError as error:
        return replace(plan, unknown=(f"cannot tell weights per GPU or KV cache: {error}",))
    weights = _weights(model_path, shape, profile)
    budget = _budget(profile, shape, weights, gpu_bytes, gpu_name)
    unknown = []
    if weights is None:
        unknown.append("cannot tell the weights: there are no safetensors files to measure")
    if budget.device_bytes is None:
        unknown.append("cannot tell the KV cache: the GPU's memory is unknown")
    plan = replace(
        plan,
        weight_bytes=weights,
        kv_bytes_per_token=kv_bytes_per_token(shape, engine.tensor_parallel_size),
        unknown=tuple(unknown),
        problems=_problems(shape, profile),
        **asdict(budget),
    )
    if budget.device_bytes is None or budget.kv_budget_bytes is None:
        return plan
    cache = kv_cache(shape, engine, budget.kv_budget_bytes, device=profile.expect.device)
    # an estimate must not stop a run that vLLM can start; the weights are exact
    too_large = weights is not None and weights >= budget.device_bytes * engine.gpu_memory_utilization
    return _with_cache(plan, cache, certain=too_large or not budget.is_estimate)


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
    message = (
        f"not even one sequence of {plan.max_model_len} tokens fits: {format_gib(plan.kv_budget_bytes or 0, 2)} "
        "are left for the KV cache. Lower max_model_len, or give the engine more memory or GPUs"
    )
    if certain:
        return replace(plan, problems=(*plan.problems, message))
    return replace(plan, doubts=(message,))


def _weights(model_path: Path, shape: ModelShape, profile: Profile) -> int | None:
    tensors = read_weights(model_path)
    if not tensors and shape.is_dense and not shape.quantized:
        tensors = tuple(dense_tensors(shape))
    if not tensors:
        return None
    return weight_bytes_per_gpu(tensors, shape, profile.engine.tensor_parallel_size)


def _budget(profile: Profile, shape: ModelShape, weights: int | None, gpu_bytes: int | None, gpu_name: str) -> _Budget:
    engine = profile.engine
    if profile.expect.device == "cpu":
        total = read_host_memory().total
        if engine.kv_cache_space_gib is not None:
            return _Budget(device_bytes=total, kv_budget_bytes=int(engine.kv_cache_space_gib * GIB))
        reserve = CPU_ENGINE_BYTES
    else:
        if gpu_bytes is None and profile.expect.gpu_memory_gib is not None:
            gpu_bytes = int(profile.expect.gpu_memory_gib * GIB)
        if gpu_bytes is None:
            return _Budget()
        total = gpu_bytes
        reserve = reserve_bytes(shape, engine, gpu_bytes, gpu_name)
    budget = None
    if weights is not None:
        budget = max(0, math.ceil(total * engine.gpu_memory_utilization) - weights - reserve)
    return _Budget(device_bytes=total, reserve_bytes=reserve, kv_budget_bytes=budget, is_estimate=True)


def _problems(shape: ModelShape, profile: Profile) -> tuple[str, ...]:
    engine = profile.engine
    problems = []
    allowed = shape.allowed_parallel_sizes(max(8, engine.tensor_parallel_size))
    if engine.tensor_parallel_size not in allowed:
        problems.append(
            f"tensor_parallel_size is {engine.tensor_parallel_size}, but the model has {shape.heads} attention and "
            f"{shape.kv_heads} KV heads. Use one of {', '.join(map(str, allowed))}"
        )
    if shape.longest is not None and engine.max_model_len > shape.longest:
        problems.append(
            f"max_model_len is {engine.max_model_len}, but the model knows {shape.longest} positions "
            f"(max_position_embeddings). Lower max_model_len to {shape.longest}"
        )
    return tuple(problems)
