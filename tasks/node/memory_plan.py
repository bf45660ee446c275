"""Where the memory goes, before anything is loaded: weights, reserve, KV cache, and how many sequences that holds."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from profiles.schema import Profile
from tasks.node.engine_memory import KvCache, kv_bytes_per_token, kv_cache, reserve_bytes
from tasks.node.host_memory import read_host_memory
from tasks.node.weight_memory import dense_tensors, weight_bytes_per_gpu
from tasks.plan.model_files import read_model_config, read_weights
from tasks.plan.model_shape import ModelShape, UnknownLayoutError, read_shape
from tasks.units import GIB

CPU_ENGINE_BYTES = 3 << 29
"""Resident memory of a CPU engine beside weights and KV cache: Python, torch and vLLM themselves."""


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Memory of one engine, in bytes per GPU (of the host for a CPU engine).

    ``in_flight`` is the question batch of one engine in sequences: questions x arms x samples; ``running`` is what
    max_num_seqs lets run of it. ``batch_fits`` says whether these fit in the KV cache at ``expected_length`` tokens.
    A figure is None when it cannot be told: ``unknown`` says why. ``problems`` are settings that cannot work.
    ``is_estimate``: the budget rests on an estimate of what vLLM measures at its start, and ``doubts`` are settings
    that by this estimate do not work.
    """

    profile: str
    device: str
    tensor_parallel_size: int
    max_model_len: int
    expected_length: int
    in_flight: int
    running: int
    device_bytes: int | None = None
    weight_bytes: int | None = None
    reserve_bytes: int | None = None
    kv_budget_bytes: int | None = None
    kv_bytes_per_token: int | None = None
    kv_tokens: int | None = None
    sequences_at_max_len: int | None = None
    sequences_at_expected: int | None = None
    batch_fits: bool | None = None
    is_estimate: bool = False
    unknown: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


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
    """The memory plan of ``profile`` with the model in ``model_path``; loads nothing.

    ``expected_length`` is the mean prompt plus completion in tokens, max_model_len when not given. ``gpu_bytes`` is
    what CUDA calls the GPU's total memory; without it the profile's expect.gpu_memory_gib is taken. Raises ConfigError
    when the model's files cannot be read.
    """
    engine = profile.engine
    in_flight = profile.question_batch_size * arms * samples
    known: dict[str, Any] = {
        "profile": profile.name,
        "device": profile.expect.device,
        "tensor_parallel_size": engine.tensor_parallel_size,
        "max_model_len": engine.max_model_len,
        "expected_length": min(expected_length or engine.max_model_len, engine.max_model_len),
        "in_flight": in_flight,
        "running": min(in_flight, engine.max_num_seqs),
    }
    try:
        shape = read_shape(read_model_config(model_path), engine)
    except UnknownLayoutError as error:
        return MemoryPlan(**known, unknown=(f"cannot tell weights per GPU or KV cache: {error}",))
    weights, unknown = _weights(model_path, shape, profile)
    known |= {
        "weight_bytes": weights,
        "kv_bytes_per_token": kv_bytes_per_token(shape, engine.tensor_parallel_size),
        "unknown": unknown,
        "problems": _problems(shape, profile),
    }
    known |= _budget(profile, shape, weights, gpu_bytes, gpu_name)
    if known["device_bytes"] is None:
        known["unknown"] = (*unknown, "cannot tell the KV cache: the GPU's memory is unknown")
    if known["kv_budget_bytes"] is None:
        return MemoryPlan(**known)
    cache = kv_cache(shape, engine, known["kv_budget_bytes"], device=profile.expect.device)
    # an estimate that is too high must stop no run that vLLM would start; the weights are not estimated
    too_large = weights is not None and weights >= known["device_bytes"] * engine.gpu_memory_utilization
    certain = too_large or not known.get("is_estimate", False)
    return MemoryPlan(**_with_cache(known, cache, certain=certain))


def _with_cache(known: dict[str, Any], cache: KvCache, *, certain: bool) -> dict[str, Any]:
    at_max, at_expected = cache.sequences(known["max_model_len"]), cache.sequences(known["expected_length"])
    if at_max == 0:
        kind = "problems" if certain else "doubts"
        message = (
            f"not even one sequence of {known['max_model_len']} tokens fits: {known['kv_budget_bytes'] / GIB:.2f} GiB "
            "are left for the KV cache. Lower max_model_len, or give the engine more memory or GPUs"
        )
        known[kind] = (*known.get(kind, ()), message)
    return known | {
        "kv_tokens": cache.tokens,
        "sequences_at_max_len": at_max,
        "sequences_at_expected": at_expected,
        "batch_fits": at_expected >= known["running"],
    }


def _weights(model_path: Path, shape: ModelShape, profile: Profile) -> tuple[int | None, tuple[str, ...]]:
    tensors = read_weights(model_path)
    if not tensors and shape.is_dense and not shape.quantized:
        tensors = tuple(dense_tensors(shape))
    if not tensors:
        return None, ("cannot tell the weights: there are no safetensors files to measure",)
    return weight_bytes_per_gpu(tensors, shape, profile.engine.tensor_parallel_size), ()


def _budget(
    profile: Profile, shape: ModelShape, weights: int | None, gpu_bytes: int | None, gpu_name: str
) -> dict[str, Any]:
    engine = profile.engine
    if profile.expect.device == "cpu":
        total = read_host_memory().total
        if engine.kv_cache_space_gib is not None:
            return {"device_bytes": total, "kv_budget_bytes": int(engine.kv_cache_space_gib * GIB)}
        reserve = CPU_ENGINE_BYTES
    else:
        expected = profile.expect.gpu_memory_gib
        if gpu_bytes is None and expected is not None:
            gpu_bytes = int(expected * GIB)
        if gpu_bytes is None:
            return {"device_bytes": None, "kv_budget_bytes": None}
        total = gpu_bytes
        reserve = reserve_bytes(shape, engine, gpu_bytes, gpu_name)
    budget = None
    if weights is not None:
        budget = max(0, math.ceil(total * engine.gpu_memory_utilization) - weights - reserve)
    return {"device_bytes": total, "reserve_bytes": reserve, "kv_budget_bytes": budget, "is_estimate": True}


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
