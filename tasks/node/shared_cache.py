"""The size of the KV cache of each engine that shares a GPU, told in advance so that all can start at once.

An engine measures what it takes of the memory, and what another one takes meanwhile would count as its own. One that is
told its size measures nothing (vLLM 0.32, v1/worker/gpu_worker.py, ``determine_available_memory``). It still needs the
part of the memory that it is told to be free when it starts.
"""

from pathlib import Path

from profiles.engine_settings import EngineSettings
from profiles.schema import Profile
from tasks.errors import ConfigError
from tasks.node.memory_budget import MemoryBudget
from tasks.plan.model_shape import UnknownLayoutError


def planned_cache_bytes(
    profile: Profile, model_path: Path, engine: EngineSettings, *, gpu_bytes: int | None
) -> int | None:
    """Return the bytes for the KV cache of each engine with settings ``engine`` (those of the GPU as a whole).

    The plan's reserve is the margin: it was 1% of the cache more than vLLM measured (infra/gpu-bench/RESULTS.md). None
    where it was never compared: for models that are not dense or are quantized, with settings passed on to vLLM, and
    where weights or memory are unknown; also when the plan leaves no room for one longest sequence. Such engines
    measure, one after the other.
    """
    try:
        memory = MemoryBudget(profile, model_path, gpu_bytes, gpu_name="")
    except (UnknownLayoutError, ConfigError):
        return None
    passed_on = engine.vllm or engine.quantization is not None
    if engine.backend != "vllm" or passed_on or not memory.shape.is_dense or memory.shape.quantized:
        return None
    cache = memory.cache(engine)
    if cache is None or not cache.sequences(engine.max_model_len):
        return None
    return memory.divide(engine).kv_budget_bytes
